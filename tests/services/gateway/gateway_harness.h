#ifndef QWENSERVE_TESTS_SERVICES_GATEWAY_GATEWAY_HARNESS_H_
#define QWENSERVE_TESTS_SERVICES_GATEWAY_GATEWAY_HARNESS_H_

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "qwenserve/v1/inference.grpc.pb.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/grpc_settings.h"
#include "services/gateway/gateway.h"
#include "services/gateway/grpc/gateway_service.h"
#include "tests/services/gateway/fake_generator.h"
#include "tests/services/gateway/fake_tokenizer.h"

namespace qwenserve {

// Polls until `condition` holds; false after 20 s.
inline bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 4000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

// A list of workers that discovery watches.
class WorkerFile {
 public:
  explicit WorkerFile(const std::string& text) { Write(text); }
  ~WorkerFile() { std::remove(path_.c_str()); }
  void Write(const std::string& text) {
    std::ofstream(path_ + ".new") << text << "\n";
    ASSERT_EQ(std::rename((path_ + ".new").c_str(), path_.c_str()), 0);
  }
  std::string source() const { return "file:" + path_; }

 private:
  const std::string path_ = testing::TempDir() + "/workers-" + std::to_string(getpid());
};

// A gateway behind a real port, with a client.
class GatewayHarness {
 public:
  explicit GatewayHarness(GatewayOptions options)
      : metrics_("gateway"), gateway_metrics_(metrics_) {
    options.tick_interval = absl::Milliseconds(5);
    options.instance_id = "test-gateway";
    gateway_ = std::make_unique<Gateway>(options, &gateway_metrics_, [](const ModelCatalog&) {});
    service_ = std::make_unique<GatewayService>(gateway_.get());
    grpc::ServerBuilder builder;
    ApplyServerSettings(builder, Exposure::kPublic);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    // A client with small windows that stay small, so that not reading is soon felt.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65536);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  ~GatewayHarness() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
    gateway_.reset();
  }

  // True once a model can be used.
  bool WaitServed() {
    return Eventually([&] { return gateway_->catalog()->AnyServed(); });
  }
  bool WaitReplicas(uint32_t count) {
    return Eventually([&] {
      const auto catalog = gateway_->catalog();
      return !catalog->models().empty() && catalog->models().front().ready_replicas() == count;
    });
  }

  v1::Inference::Stub& stub() { return *stub_; }
  Gateway& gateway() { return *gateway_; }
  std::string Scrape() { return metrics_.Scrape(); }
  grpc::Server& server() { return *server_; }

 private:
  Metrics metrics_;
  GatewayMetrics gateway_metrics_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<GatewayService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

inline GatewayOptions OptionsFor(const std::vector<std::string>& tokenizers,
                                 const std::vector<std::string>& generators) {
  GatewayOptions options;
  options.tokenizers = tokenizers;
  options.generators = generators;
  return options;
}

// A gateway with one tokenizer and one generator, all well.
class GatewayTest : public testing::Test {
 protected:
  void Start(FakeGenerator::Options generator = {}, FakeTokenizer::Options tokenizer = {},
             std::function<void(GatewayOptions&)> change = nullptr) {
    tokenizer_ = std::make_unique<FakeTokenizer>(std::move(tokenizer));
    generator_ = std::make_unique<FakeGenerator>(std::move(generator));
    GatewayOptions options = OptionsFor({tokenizer_->address()}, {generator_->address()});
    if (change) change(options);
    harness_ = std::make_unique<GatewayHarness>(options);
    ASSERT_TRUE(harness_->WaitServed());
  }
  void StartEcho() {
    FakeGenerator::Options options;
    options.echo = true;
    Start(options);
  }
  v1::Inference::Stub& stub() { return harness_->stub(); }

  std::unique_ptr<FakeTokenizer> tokenizer_;
  std::unique_ptr<FakeGenerator> generator_;
  std::unique_ptr<GatewayHarness> harness_;
};

inline v1::ChatRequest UserSays(const std::string& text) {
  v1::ChatRequest request;
  v1::ChatMessage* message = request.mutable_input()->add_messages();
  message->set_role(v1::ROLE_USER);
  message->set_content(text);
  return request;
}

inline v1::CompleteRequest Prompt(const std::string& text) {
  v1::CompleteRequest request;
  request.set_text(text);
  return request;
}

// A client's stream, read message by message.
template <typename Request, typename Response>
class ClientStream {
 public:
  using Reader = std::unique_ptr<grpc::ClientReader<Response>>;

  explicit ClientStream(const std::function<Reader(grpc::ClientContext*)>& start)
      : reader_(start(&context_)) {}

  bool Read(Response* response) { return reader_->Read(response); }
  Response Next() {
    Response response;
    EXPECT_TRUE(reader_->Read(&response)) << "the stream ended early";
    return response;
  }
  absl::Status Finish() { return FromGrpcStatus(reader_->Finish()); }
  // Reads what is left and returns all text of choice 0.
  std::string ReadText(v1::Finished* finished = nullptr) {
    std::string text;
    Response response;
    while (reader_->Read(&response)) {
      if (response.has_delta()) text += response.delta().text();
      if (response.has_finished() && finished != nullptr) *finished = response.finished();
    }
    return text;
  }
  // Reads what is left, and how it ended.
  absl::Status End(std::string* text = nullptr) {
    const std::string read = ReadText();
    if (text != nullptr) *text = read;
    return Finish();
  }
  grpc::ClientContext& context() { return context_; }

 private:
  grpc::ClientContext context_;
  Reader reader_;
};

class ChatStream : public ClientStream<v1::ChatRequest, v1::StreamChatResponse> {
 public:
  ChatStream(v1::Inference::Stub& stub, const v1::ChatRequest& request,
             std::chrono::milliseconds timeout = std::chrono::seconds(60))
      : ClientStream([&](grpc::ClientContext* context) {
          context->set_deadline(std::chrono::system_clock::now() + timeout);
          return stub.StreamChat(context, request);
        }) {}
};

class CompleteStream : public ClientStream<v1::CompleteRequest, v1::StreamCompleteResponse> {
 public:
  CompleteStream(v1::Inference::Stub& stub, const v1::CompleteRequest& request,
                 std::chrono::milliseconds timeout = std::chrono::seconds(60))
      : ClientStream([&](grpc::ClientContext* context) {
          context->set_deadline(std::chrono::system_clock::now() + timeout);
          return stub.StreamComplete(context, request);
        }) {}
};

inline absl::Status CallChat(v1::Inference::Stub& stub, const v1::ChatRequest& request,
                             v1::ChatResponse* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return FromGrpcStatus(stub.Chat(&context, request, response));
}

inline absl::Status CallComplete(v1::Inference::Stub& stub, const v1::CompleteRequest& request,
                                 v1::CompleteResponse* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return FromGrpcStatus(stub.Complete(&context, request, response));
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GATEWAY_GATEWAY_HARNESS_H_
