#include "services/generator/session_reactor.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/monotonic_time.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "qwenserve/v1/generator.grpc.pb.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/session_protocol.h"
#include "services/generator/submit_conversion.h"
#include "tests/services/generator/fake_engine.h"

namespace qwenserve {
namespace {

using Stream = grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>;

template <typename Condition>
bool Eventually(Condition condition) {
  for (int i = 0; i < 4000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

// A session over a real connection whose client holds little unread.
class SessionReactorTest : public ::testing::Test, public v1::Generator::CallbackService {
 protected:
  SessionReactorTest()
      : registry_("generator"),
        metrics_(registry_, "m"),
        core_(&engine_, MakeServerHello(engine_.info()), &metrics_) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    stub_ = v1::Generator::NewStub(grpc::CreateCustomChannel(
        "127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), arguments));
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = stub_->Session(&context_);
  }
  ~SessionReactorTest() override {
    context_.TryCancel();
    stream_.reset();
    server_->Shutdown(std::chrono::system_clock::now());
  }

  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* Session(
      grpc::CallbackServerContext* context) override {
    return SessionReactor::Start(&core_, &wakes_, context);
  }

  // Greets, and opens sequence 1.
  void Begin() {
    v1::SessionRequest request;
    request.mutable_hello()->set_protocol_version(kSessionProtocol);
    ASSERT_TRUE(stream_->Write(request));
    v1::SessionResponse response;
    ASSERT_TRUE(stream_->Read(&response));
    ASSERT_TRUE(response.has_hello());
    v1::Submit* submit = request.mutable_submit();
    submit->set_sequence(1);
    submit->add_prompt_ids(7);
    submit->set_max_tokens(10);
    submit->mutable_sampling()->set_seed(1);
    ASSERT_TRUE(stream_->Write(request));
    ASSERT_TRUE(Eventually([&] { return core_.open_sequences() == 1; }));
  }

  // More than the connection holds unread, in messages of one step each.
  void SendMany(int steps) {
    for (int i = 0; i < steps; ++i) {
      StepEvents events;
      SequenceEvent& event = events.sequences.emplace_back();
      event.sequence = engine_.submitted.rbegin()->first;
      event.first_token_index = int64_t{i} * kIdsPerStep;
      event.ids.assign(kIdsPerStep, 999);
      if (i + 1 == steps) event.finish = FinishReason::kLength;
      core_.OnStep(events, MonotonicNow());
    }
  }

  static constexpr int kIdsPerStep = 100000;

  FakeEngine engine_;
  Metrics registry_;
  GeneratorMetrics metrics_;
  WakeThread wakes_;
  GeneratorCore core_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Generator::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(SessionReactorTest, WhatIsUnreadWhenSessionsEndStillArrives) {
  Begin();
  SendMany(20);
  core_.EndSessions(WithReason(absl::UnavailableError("the end"), kReasonDraining));
  int64_t ids = 0;
  bool finished = false;
  v1::SessionResponse response;
  while (stream_->Read(&response)) {
    for (const v1::SequenceEvent& event : response.step_events().events()) {
      ids += event.token_ids_size();
      finished |= event.has_finish();
    }
  }
  EXPECT_EQ(ids, int64_t{20} * kIdsPerStep);
  EXPECT_TRUE(finished);
  EXPECT_EQ(ErrorReason(FromGrpcStatus(stream_->Finish())), kReasonDraining);
}

TEST_F(SessionReactorTest, AGatewayThatLeftWithoutReadingIsForgotten) {
  Begin();
  SendMany(20);
  ASSERT_TRUE(stream_->WritesDone());
  // The write under way never ends, so it takes the silence.
  ASSERT_TRUE(Eventually([&] {
    core_.Beat(MonotonicNow() + 2 * GeneratorCore::kSilenceLimit);
    return core_.open_sessions() == 0;
  }));
}

}  // namespace
}  // namespace qwenserve
