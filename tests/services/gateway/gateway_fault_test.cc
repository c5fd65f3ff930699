#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

// Of all that is read until the end.
template <typename Stream>
absl::Status End(Stream& stream, std::string* text = nullptr) {
  const std::string read = stream.ReadText();
  if (text != nullptr) *text = read;
  return stream.Finish();
}

TEST_F(GatewayTest, CancelReachesTheGenerator) {
  Start();
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  EXPECT_TRUE(stream.Next().has_started());
  stream.context().TryCancel();
  EXPECT_TRUE(generator_->WaitCancelled(sequence));
  EXPECT_TRUE(absl::IsCancelled(stream.Finish()));
  EXPECT_TRUE(Eventually([&] { return harness_->gateway().in_flight() == 0; }));
}

TEST_F(GatewayTest, CancelOfAUnaryCallReachesEverySample) {
  Start();
  v1::ChatRequest request = UserSays("hello");
  request.mutable_options()->set_n(2);
  grpc::ClientContext context;
  v1::ChatResponse response;
  std::thread caller([&] { stub().Chat(&context, request, &response); });
  const uint64_t first = generator_->WaitSubmit(0).sequence();
  const uint64_t second = generator_->WaitSubmit(1).sequence();
  context.TryCancel();
  caller.join();
  EXPECT_TRUE(generator_->WaitCancelled(first));
  EXPECT_TRUE(generator_->WaitCancelled(second));
}

TEST_F(GatewayTest, CancelWhilePreparingSubmitsNothing) {
  Start();
  tokenizer_->HoldPrepare(true);
  ChatStream stream(stub(), UserSays("hello"));
  ASSERT_TRUE(Eventually([&] { return tokenizer_->num_prepared() == 1; }));
  stream.context().TryCancel();
  EXPECT_TRUE(absl::IsCancelled(stream.Finish()));
  EXPECT_TRUE(Eventually([&] { return harness_->gateway().in_flight() == 0; }));
  tokenizer_->HoldPrepare(false);
  // The next one passes, so the first would have too.
  ChatStream other(stub(), UserSays("other"));
  EXPECT_EQ(generator_->WaitSubmit(0).prompt_ids_size(), 5);
  EXPECT_EQ(generator_->WaitSubmit(0).prompt_ids(1), uint32_t{'t'});
}

TEST_F(GatewayTest, CancelWhileWaitingSubmitsNothing) {
  FakeGenerator::Options options;
  options.hello.mutable_limits()->set_max_running(1);
  options.hello.mutable_limits()->set_max_batch_tokens(1);
  Start(options);
  ChatStream first(stub(), UserSays("first"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  ChatStream second(stub(), UserSays("second"));
  ASSERT_TRUE(Eventually([&] {
    return harness_->Scrape().find("qwenserve_gateway_requests_waiting 1") != std::string::npos;
  }));
  second.context().TryCancel();
  EXPECT_TRUE(absl::IsCancelled(second.Finish()));
  ASSERT_TRUE(Eventually([&] { return harness_->gateway().in_flight() == 1; }));
  ChatStream third(stub(), UserSays("third"));
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(generator_->WaitSubmit(1).prompt_ids_size(), 5);  // "third", not "second"
  EXPECT_TRUE(End(first).ok());
}

TEST_F(GatewayTest, ClientDeadlineReachesTheGenerator) {
  Start();
  ChatStream stream(stub(), UserSays("hello"), std::chrono::milliseconds(1500));
  const v1::Submit submit = generator_->WaitSubmit(0);
  EXPECT_LE(submit.time_left().seconds(), 1);
  EXPECT_TRUE(generator_->WaitCancelled(submit.sequence()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(End(stream)));
}

TEST_F(GatewayTest, MaxRequestTimeEndsAStreamWithWhatItHas) {
  Start({}, {},
        [](GatewayOptions& options) { options.call.max_request_time = absl::Milliseconds(1500); });
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  generator_->SendTokens(sequence, "abc");
  std::string text;
  const absl::Status status = End(stream, &text);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(ErrorMetadata(status, "tokens_sent"), "3");
  EXPECT_TRUE(generator_->WaitCancelled(sequence));
}

TEST_F(GatewayTest, GeneratorLostBeforeTheFirstToken) {
  Start({}, {},
        [](GatewayOptions& options) { options.call.failover_wait = absl::Milliseconds(300); });
  ChatStream stream(stub(), UserSays("hello"));
  generator_->WaitSubmit(0);
  generator_->Kill();
  const absl::Status status = End(stream);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonWorkerLost);
  EXPECT_EQ(ErrorMetadata(status, "tokens_sent"), "0");
}

TEST_F(GatewayTest, GeneratorLostInMidStream) {
  Start({}, {},
        [](GatewayOptions& options) { options.call.failover_wait = absl::Milliseconds(300); });
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  EXPECT_TRUE(stream.Next().has_started());
  generator_->SendTokens(sequence, "ab");
  EXPECT_EQ(stream.Next().delta().text(), "ab");
  generator_->Kill();
  const absl::Status status = End(stream);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonWorkerLost);
  EXPECT_EQ(ErrorMetadata(status, "tokens_sent"), "2");
}

TEST_F(GatewayTest, GeneratorThatComesBackIsUsedAgain) {
  Start();
  const int port = generator_->port();
  generator_->Kill();
  ASSERT_TRUE(Eventually([&] { return !harness_->gateway().catalog()->AnyServed(); }));
  ChatStream stream(stub(), UserSays("hello"));
  const absl::Status status = End(stream);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonNoWorker);
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  FakeGenerator::Options options;
  options.port = port;
  options.echo = true;
  FakeGenerator successor(options);
  ASSERT_TRUE(harness_->WaitServed());
  ChatStream next(stub(), UserSays("hello"));
  EXPECT_EQ(next.ReadText(), "hello");
}

TEST_F(GatewayTest, SilentGeneratorIsLost) {
  Start({}, {}, [](GatewayOptions& options) {
    options.session.heartbeat_interval = absl::Milliseconds(50);
    options.call.failover_wait = absl::ZeroDuration();
  });
  ChatStream stream(stub(), UserSays("hello"));
  generator_->WaitSubmit(0);
  // Beats both ways keep the session for longer than the limit, 2 s.
  ASSERT_TRUE(Eventually([&] { return generator_->num_client_heartbeats() > 60; }));
  EXPECT_EQ(generator_->num_sessions(), 1);
  generator_->SilenceHeartbeats(true);
  const absl::Status status = End(stream);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonWorkerLost);
}

TEST_F(GatewayTest, AStalledGeneratorGetsNothingMoreUntilItSteps) {
  Start();
  ChatStream first(stub(), UserSays("first"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  v1::EngineStats stalled;  // nothing runs: the step that hangs is behind the last sequence's end
  stalled.mutable_step_budget()->set_seconds(4);
  stalled.mutable_step_age()->set_seconds(5);
  generator_->SetStats(stalled);
  generator_->SendTokens(sequence, "a");
  EXPECT_TRUE(first.Next().has_started());
  first.Next();  // what comes behind the heartbeat, so that one has been taken in
  ChatStream second(stub(), UserSays("second"));
  ASSERT_TRUE(Eventually([&] {
    return harness_->Scrape().find("qwenserve_gateway_requests_waiting 1") != std::string::npos;
  }));
  generator_->SetStats({});
  EXPECT_EQ(generator_->WaitSubmit(1).prompt_ids_size(), 6);
}

TEST_F(GatewayTest, GeneratorsErrorReachesTheClientWithItsDetails) {
  Start();
  ChatStream stream(stub(), UserSays("hello"));
  v1::StepEvents step;
  v1::SequenceEvent* event = step.add_events();
  event->set_sequence(generator_->WaitSubmit(0).sequence());
  event->mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_ERROR);
  *event->mutable_finish()->mutable_status() =
      ToProtoStatus(WithReason(absl::ResourceExhaustedError("no blocks"), "SCRIPTED"));
  generator_->Send(step);
  const absl::Status status = End(stream);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), "SCRIPTED");
}

TEST_F(GatewayTest, GeneratorThatBreaksTheProtocolFailsOnlyThatRequest) {
  Start({}, {}, [](GatewayOptions& options) { options.call.credit_window = 8; });
  ChatStream skips(stub(), UserSays("skips"));
  v1::StepEvents step;
  v1::SequenceEvent* event = step.add_events();
  event->set_sequence(generator_->WaitSubmit(0).sequence());
  event->set_first_token_index(1);
  event->add_token_ids('x');
  ChatStream floods(stub(), UserSays("floods"));
  const uint64_t flood = generator_->WaitSubmit(1).sequence();
  ChatStream good(stub(), UserSays("good"));
  const uint64_t sequence = generator_->WaitSubmit(2).sequence();
  generator_->Send(step);
  generator_->SendTokens(flood, std::string(9, 'x'));
  generator_->SendTokens(sequence, "fine");
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_TRUE(absl::IsInternal(End(skips)));
  EXPECT_TRUE(absl::IsInternal(End(floods)));
  EXPECT_TRUE(generator_->WaitCancelled(flood));
  std::string text;
  EXPECT_TRUE(End(good, &text).ok());
  EXPECT_EQ(text, "fine");
}

TEST_F(GatewayTest, EventsOfAnotherAttemptAreDropped) {
  Start();
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  v1::StepEvents step;
  v1::SequenceEvent* event = step.add_events();
  event->set_sequence(sequence);
  event->set_attempt(1);
  event->add_token_ids('x');
  generator_->Send(step);
  generator_->SendTokens(sequence, "right");
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(End(stream, &text).ok());
  EXPECT_EQ(text, "right");
}

TEST_F(GatewayTest, BrokenDetokenizeStreamIsInvisible) {
  Start();
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  EXPECT_TRUE(stream.Next().has_started());
  generator_->SendTokens(sequence, "one \xF0\x9F");
  EXPECT_EQ(stream.Next().delta().text(), "one ");
  tokenizer_->BreakNextStream();
  generator_->SendTokens(sequence, "\x98\x80 two");  // its item is lost and sent again
  generator_->SendTokens(sequence, " three");
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(End(stream, &text).ok());
  EXPECT_EQ(text, "\xF0\x9F\x98\x80 two three");
}

TEST(GatewayTokenizersTest, AnotherTokenizerTakesOver) {
  FakeTokenizer first;
  FakeTokenizer second;
  FakeGenerator generator;
  GatewayHarness harness(OptionsFor({first.address(), second.address()}, {generator.address()}));
  ASSERT_TRUE(harness.WaitServed());
  ASSERT_TRUE(Eventually(
      [&] { return harness.Scrape().find("{role=\"tokenizer\"} 2") != std::string::npos; }));
  first.HoldAnswers(true);
  second.HoldAnswers(true);
  std::vector<std::unique_ptr<ChatStream>> streams;
  std::vector<uint64_t> sequences;
  for (size_t i = 0; i < 6; ++i) {
    streams.push_back(std::make_unique<ChatStream>(harness.stub(), UserSays("hello")));
    sequences.push_back(generator.WaitSubmit(i).sequence());
    generator.SendTokens(sequences.back(), "before ");
  }
  ASSERT_TRUE(Eventually([&] { return first.num_items() > 0 && second.num_items() > 0; }));
  // Items are out at both; one of them dies without an answer.
  first.Kill();
  second.HoldAnswers(false);
  for (size_t i = 0; i < 6; ++i) {
    generator.SendTokens(sequences[i], "after");
    generator.SendFinish(sequences[i], v1::SEQUENCE_FINISH_REASON_EOS);
    std::string text;
    EXPECT_TRUE(End(*streams[i], &text).ok());
    EXPECT_EQ(text, "before after");
  }
  // And prompts go to the other one.
  ChatStream next(harness.stub(), UserSays("hello"));
  generator.WaitSubmit(6);
}

TEST(GatewayTokenizersTest, StalledTokenizerIsGivenUp) {
  FakeTokenizer first;
  FakeTokenizer second;
  FakeGenerator generator;
  GatewayOptions options = OptionsFor({first.address(), second.address()}, {generator.address()});
  options.tokenizer.item_timeout = absl::Seconds(1);
  options.tokenizer.max_item_losses = 1000;
  GatewayHarness harness(options);
  ASSERT_TRUE(Eventually(
      [&] { return harness.Scrape().find("{role=\"tokenizer\"} 2") != std::string::npos; }));
  ASSERT_TRUE(harness.WaitServed());
  first.HoldAnswers(true);
  for (size_t i = 0; i < 2; ++i) {  // neighbouring keys go to different workers
    ChatStream stream(harness.stub(), UserSays("hello"));
    const uint64_t sequence = generator.WaitSubmit(i).sequence();
    generator.SendTokens(sequence, "text");
    generator.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
    std::string text;
    EXPECT_TRUE(End(stream, &text).ok());
    EXPECT_EQ(text, "text");
  }
}

TEST(GatewayTokenizersTest, PromptsOfAFrozenTokenizerGoElsewhere) {
  FakeTokenizer first;
  FakeTokenizer second;
  FakeGenerator generator;
  GatewayOptions options = OptionsFor({first.address(), second.address()}, {generator.address()});
  options.tokenizer.describe_interval = absl::Milliseconds(50);
  options.tokenizer.describe_timeout = absl::Seconds(1);
  GatewayHarness harness(options);
  ASSERT_TRUE(Eventually(
      [&] { return harness.Scrape().find("{role=\"tokenizer\"} 2") != std::string::npos; }));
  ASSERT_TRUE(harness.WaitServed());
  // An idle gateway gives every prompt to the same one.
  ChatStream probe(harness.stub(), UserSays("hello"));
  generator.WaitSubmit(0);
  FakeTokenizer& chosen = first.num_prepared() > 0 ? first : second;
  chosen.Freeze();
  ChatStream stream(harness.stub(), UserSays("hello"));
  generator.WaitSubmit(1);
  EXPECT_EQ(chosen.num_prepared(), 2);
}

TEST(GatewayTokenizersTest, PromptsThatAStoppingTokenizerCancelsGoElsewhere) {
  FakeTokenizer first;
  FakeTokenizer second;
  FakeGenerator generator;
  GatewayHarness harness(OptionsFor({first.address(), second.address()}, {generator.address()}));
  ASSERT_TRUE(Eventually(
      [&] { return harness.Scrape().find("{role=\"tokenizer\"} 2") != std::string::npos; }));
  ASSERT_TRUE(harness.WaitServed());
  ChatStream probe(harness.stub(), UserSays("hello"));
  generator.WaitSubmit(0);
  FakeTokenizer& chosen = first.num_prepared() > 0 ? first : second;
  // As a server does with calls that come while it shuts down.
  chosen.FailPrepare(grpc::Status(grpc::StatusCode::CANCELLED, "Cancelled"));
  ChatStream stream(harness.stub(), UserSays("hello"));
  const uint64_t sequence = generator.WaitSubmit(1).sequence();
  generator.SendTokens(sequence, "text");
  generator.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(End(stream, &text).ok());
  EXPECT_EQ(text, "text");
  EXPECT_EQ(chosen.num_prepared(), 2);
}

TEST_F(GatewayTest, NoTokenizerLeftEndsTheAnswer) {
  Start({}, {}, [](GatewayOptions& options) {
    options.tokenizer.no_worker_grace = absl::Milliseconds(200);
  });
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  tokenizer_->Kill();
  generator_->SendTokens(sequence, "text");
  const absl::Status status = End(stream);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonWorkerLost);
  EXPECT_TRUE(generator_->WaitCancelled(sequence));
}

TEST_F(GatewayTest, AnItemThatKillsTokenizersIsNotPassedOnForever) {
  Start({}, {}, [](GatewayOptions& options) { options.tokenizer.max_item_losses = 2; });
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  std::atomic<bool> stop{false};
  tokenizer_->BreakNextStream();
  std::thread breaker([&] {
    while (!stop) {
      tokenizer_->BreakNextStream();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  generator_->SendTokens(sequence, "poison");
  const absl::Status status = End(stream);
  stop = true;
  breaker.join();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonSuspectedPoison);
}

TEST(GatewayGeneratorsTest, WrongTokenizerHashGetsNoWork) {
  FakeTokenizer tokenizer;
  FakeGenerator::Options options;
  options.hello.set_tokenizer_hash("hash-2");
  FakeGenerator generator(options);
  GatewayHarness harness(OptionsFor({tokenizer.address()}, {generator.address()}));
  ASSERT_TRUE(Eventually([&] {
    const auto status = harness.gateway().catalog()->Resolve("fake").status();
    return ErrorReason(status) == kReasonTokenizerMismatch;
  }));
  ChatStream stream(harness.stub(), UserSays("hello"));
  const absl::Status status = End(stream);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonTokenizerMismatch);
  EXPECT_EQ(generator.num_submits(), 0u);
}

class ProtocolVersionTest : public testing::TestWithParam<uint32_t> {};

// The one before, the next one, one of a later time.
INSTANTIATE_TEST_SUITE_P(Foreign, ProtocolVersionTest, testing::Values(0, 2, 7));

TEST_P(ProtocolVersionTest, AnotherOneIsRefused) {
  FakeTokenizer tokenizer;
  FakeGenerator::Options options;
  options.hello.set_protocol_version(GetParam());
  FakeGenerator generator(options);
  GatewayHarness harness(OptionsFor({tokenizer.address()}, {generator.address()}));
  ASSERT_TRUE(Eventually([&] {
    v1::GetStatusResponse status;
    harness.gateway().FillStatus(&status);
    for (const v1::WorkerStatus& worker : status.workers()) {
      if (worker.role() == "generator" &&
          worker.reason() ==
              absl::StrCat("it speaks version ", GetParam(), " of the protocol, not 1")) {
        return true;
      }
    }
    return false;
  }));
  EXPECT_FALSE(harness.gateway().catalog()->AnyServed());
}

TEST(GatewayGeneratorsTest, DrainingGeneratorFinishesButGetsNothingNew) {
  FakeTokenizer tokenizer;
  FakeGenerator leaving;
  WorkerFile workers(leaving.address());
  GatewayOptions options = OptionsFor({tokenizer.address()}, {workers.source()});
  options.discovery.file_interval = absl::Milliseconds(20);
  GatewayHarness harness(options);
  ASSERT_TRUE(harness.WaitServed());
  ChatStream old_stream(harness.stub(), UserSays("old"));
  const uint64_t sequence = leaving.WaitSubmit(0).sequence();
  EXPECT_TRUE(old_stream.Next().has_started());

  FakeGenerator staying;
  workers.Write(leaving.address() + "\n" + staying.address());
  ASSERT_TRUE(harness.WaitReplicas(2));
  leaving.SendDraining();
  ASSERT_TRUE(harness.WaitReplicas(1));
  for (size_t i = 0; i < 3; ++i) {
    ChatStream stream(harness.stub(), UserSays("new"));
    staying.SendFinish(staying.WaitSubmit(i).sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
    EXPECT_TRUE(End(stream).ok());
  }
  leaving.SendTokens(sequence, "to the end");
  leaving.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(End(old_stream, &text).ok());
  EXPECT_EQ(text, "to the end");
}

TEST(GatewayGeneratorsTest, AddressesThatLeaveTheListFinishTheirWork) {
  FakeTokenizer tokenizer;
  FakeGenerator leaving;
  FakeGenerator staying;
  WorkerFile workers(leaving.address());
  GatewayOptions options = OptionsFor({tokenizer.address()}, {workers.source()});
  options.discovery.file_interval = absl::Milliseconds(20);
  GatewayHarness harness(options);
  ASSERT_TRUE(harness.WaitServed());
  ChatStream stream(harness.stub(), UserSays("old"));
  const uint64_t sequence = leaving.WaitSubmit(0).sequence();
  workers.Write(staying.address());
  ASSERT_TRUE(Eventually([&] { return staying.num_sessions() == 1; }));
  ASSERT_TRUE(harness.WaitReplicas(1));
  ChatStream next(harness.stub(), UserSays("new"));
  staying.SendFinish(staying.WaitSubmit(0).sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_TRUE(End(next).ok());
  leaving.SendTokens(sequence, "text");
  leaving.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(End(stream, &text).ok());
  EXPECT_EQ(text, "text");
  // A bad list takes nobody away.
  workers.Write("not an address");
  ASSERT_TRUE(Eventually([&] {
    return harness.Scrape().find("discovery_failures_total{source=\"file\"} 0") ==
           std::string::npos;
  }));
  EXPECT_TRUE(harness.gateway().catalog()->AnyServed());
}

TEST(GatewayGeneratorsTest, OneReplicaBehindTwoAddressesIsUsedOnce) {
  FakeTokenizer tokenizer;
  FakeGenerator generator;
  const std::string alias = "[::ffff:127.0.0.1]:" + std::to_string(generator.port());
  GatewayOptions options = OptionsFor({tokenizer.address()}, {generator.address(), alias});
  GatewayHarness harness(options);
  ASSERT_TRUE(Eventually([&] {
    v1::GetStatusResponse status;
    harness.gateway().FillStatus(&status);
    int same = 0;
    for (const v1::WorkerStatus& worker : status.workers()) {
      same += worker.reason().find("the same replica as") == 0;
    }
    return same == 1;
  }));
  ASSERT_TRUE(harness.WaitReplicas(1));
}

TEST_F(GatewayTest, FullGatewayRefusesAtOnce) {
  Start({}, {}, [](GatewayOptions& options) { options.admission.max_requests = 2; });
  ChatStream first(stub(), UserSays("1"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  ChatStream second(stub(), UserSays("2"));
  generator_->WaitSubmit(1);
  ChatStream third(stub(), UserSays("3"));
  absl::Status status = End(third);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonQueueFull);
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_TRUE(End(first).ok());
  ASSERT_TRUE(Eventually([&] { return harness_->gateway().in_flight() == 1; }));
  ChatStream fourth(stub(), UserSays("4"));
  generator_->WaitSubmit(2);
}

TEST_F(GatewayTest, FullQueueRefusesAtOnce) {
  FakeGenerator::Options options;
  options.hello.mutable_limits()->set_max_running(1);
  options.hello.mutable_limits()->set_max_batch_tokens(1);
  Start(options, {}, [](GatewayOptions& gateway) { gateway.queue.max_waiting = 1; });
  ChatStream running(stub(), UserSays("1"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  ChatStream waiting(stub(), UserSays("2"));
  ASSERT_TRUE(Eventually([&] {
    return harness_->Scrape().find("qwenserve_gateway_requests_waiting 1") != std::string::npos;
  }));
  ChatStream refused(stub(), UserSays("3"));
  const absl::Status status = End(refused);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonQueueFull);
  EXPECT_THAT(harness_->Scrape(),
              testing::HasSubstr("qwenserve_gateway_sheds_total{cause=\"queue_full\"} 1"));
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  generator_->SendFinish(generator_->WaitSubmit(1).sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_TRUE(End(waiting).ok());
}

TEST_F(GatewayTest, HigherPriorityOvertakesInTheQueue) {
  FakeGenerator::Options options;
  options.hello.mutable_limits()->set_max_running(1);
  options.hello.mutable_limits()->set_max_batch_tokens(1);
  Start(options);
  ChatStream running(stub(), UserSays("running"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  ChatStream normal(stub(), UserSays("normal"));
  const auto waiting = [&](int count) {
    return Eventually([&] {
      return harness_->Scrape().find("qwenserve_gateway_requests_waiting " +
                                     std::to_string(count)) != std::string::npos;
    });
  };
  ASSERT_TRUE(waiting(1));
  v1::ChatRequest urgent = UserSays("urgent!");
  urgent.mutable_options()->set_priority(1);
  ChatStream overtakes(stub(), urgent);
  ASSERT_TRUE(waiting(2));
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(generator_->WaitSubmit(1).priority(), 1);
}

TEST_F(GatewayTest, WaitingRequestsFailWhenTheLastReplicaGoes) {
  FakeGenerator::Options options;
  options.hello.mutable_limits()->set_max_running(1);
  options.hello.mutable_limits()->set_max_batch_tokens(1);
  Start(options);
  ChatStream running(stub(), UserSays("1"));
  generator_->WaitSubmit(0);
  ChatStream waiting(stub(), UserSays("2"));
  ASSERT_TRUE(Eventually([&] {
    return harness_->Scrape().find("qwenserve_gateway_requests_waiting 1") != std::string::npos;
  }));
  generator_->Kill();
  const absl::Status status = End(waiting);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonNoWorker);
}

}  // namespace
}  // namespace qwenserve
