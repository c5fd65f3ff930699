package qwenserve.examples;

import com.google.gson.Gson;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.Iterator;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import qwenserve.v1.ChatInput;
import qwenserve.v1.ChatMessage;
import qwenserve.v1.ChatRequest;
import qwenserve.v1.Finished;
import qwenserve.v1.InferenceGrpc;
import qwenserve.v1.Role;
import qwenserve.v1.StreamChatResponse;

/**
 * Asks a qwenserve gateway one question and prints the answer as it comes.
 *
 * <p>Arguments: ADDRESS SERVICE_CONFIG SECONDS QUESTION. The address may be a name with several
 * gateways behind it, such as dns:///gateways:50051. gRPC itself retries what the service config
 * says; the deadline holds for all attempts together. The API key comes from QWENSERVE_API_KEY.
 */
public final class Chat {
  private final InferenceGrpc.InferenceBlockingStub stub;
  private final Instant deadline;

  private Chat(InferenceGrpc.InferenceBlockingStub stub, Duration timeout) {
    this.stub = stub;
    this.deadline = Instant.now().plus(timeout);
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 4) {
      System.err.println("usage: Chat ADDRESS SERVICE_CONFIG SECONDS QUESTION");
      System.exit(2);
    }
    ChatRequest request =
        ChatRequest.newBuilder()
            .setInput(
                ChatInput.newBuilder()
                    .addMessages(
                        ChatMessage.newBuilder()
                            .setRole(Role.ROLE_USER)
                            .setContent(arguments[3])))
            .build();
    ManagedChannel channel = openChannel(arguments[0], Path.of(arguments[1]));
    int status = 0;
    try {
      Duration timeout = Duration.ofMillis((long) (1000 * Double.parseDouble(arguments[2])));
      new Chat(newStub(channel), timeout).answer(request);
    } catch (StatusRuntimeException error) {
      System.err.println(error.getStatus().getCode() + ": " + error.getStatus().getDescription());
      detail(error, ErrorInfo.class)
          .ifPresent(info -> System.err.println("reason " + info.getReason()));
      status = 1;
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    System.exit(status);
  }

  /** Without TLS; leave usePlaintext() out where the gateway has a certificate. */
  private static ManagedChannel openChannel(String address, Path serviceConfig) throws IOException {
    @SuppressWarnings("unchecked") // what gRPC takes: JSON as maps, lists and doubles
    Map<String, ?> config = new Gson().fromJson(Files.readString(serviceConfig), Map.class);
    return ManagedChannelBuilder.forTarget(address)
        .usePlaintext()
        .enableRetry()
        .defaultServiceConfig(config)
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(5, TimeUnit.SECONDS)
        .build();
  }

  private static InferenceGrpc.InferenceBlockingStub newStub(ManagedChannel channel) {
    Metadata headers = new Metadata();
    String key = System.getenv("QWENSERVE_API_KEY");
    if (key != null) {
      headers.put(
          Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + key);
    }
    return InferenceGrpc.newBlockingStub(channel)
        .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  /** Prints the answer. Asks again as long as the gateway is busy and says for how long. */
  private void answer(ChatRequest request) throws InterruptedException {
    while (true) {
      try {
        print(stub.withDeadlineAfter(left().toMillis(), TimeUnit.MILLISECONDS).streamChat(request));
        return;
      } catch (StatusRuntimeException error) {
        // A gateway that is busy says so before the first message, so nothing is printed twice.
        Optional<Duration> delay = retryDelay(error);
        if (delay.isEmpty() || delay.get().compareTo(left()) >= 0) {
          throw error;
        }
        TimeUnit.NANOSECONDS.sleep(delay.get().toNanos());
      }
    }
  }

  private Duration left() {
    return Duration.between(Instant.now(), deadline);
  }

  private static void print(Iterator<StreamChatResponse> events) {
    while (events.hasNext()) {
      StreamChatResponse event = events.next();
      switch (event.getEventCase()) {
        case DELTA:
          System.out.print(event.getDelta().getText());
          System.out.flush();
          break;
        case FINISHED:
          Finished finished = event.getFinished();
          System.out.println();
          System.err.printf(
              "%d prompt tokens, %d of the answer, %s%n",
              finished.getUsage().getPromptTokens(),
              finished.getUsage().getCompletionTokens(),
              finished.getChoices(0).getFinishReason());
          break;
        default:
          break;
      }
    }
  }

  /** How long a busy gateway asks to wait; empty for other errors. */
  private static Optional<Duration> retryDelay(StatusRuntimeException error) {
    if (error.getStatus().getCode() != Status.Code.RESOURCE_EXHAUSTED) {
      return Optional.empty();
    }
    return detail(error, RetryInfo.class)
        .map(RetryInfo::getRetryDelay)
        .map(delay -> Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
  }

  private static <T extends com.google.protobuf.Message> Optional<T> detail(
      StatusRuntimeException error, Class<T> type) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    for (com.google.protobuf.Any packed : status.getDetailsList()) {
      if (packed.is(type)) {
        try {
          return Optional.of(packed.unpack(type));
        } catch (InvalidProtocolBufferException broken) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }
}
