// Generators that are lost, stall, drain, or do not keep to the protocol.

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

TEST_F(GatewayTest, GeneratorLostBeforeTheFirstToken) {
  Start({}, {},
        [](GatewayOptions& options) { options.call.failover_wait = absl::Milliseconds(300); });
  ChatStream stream(stub(), UserSays("hello"));
  generator_->WaitSubmit(0);
  generator_->Kill();
  const absl::Status status = stream.End();
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
  const absl::Status status = stream.End();
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
  const absl::Status status = stream.End();
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
  const absl::Status status = stream.End();
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
  const absl::Status status = stream.End();
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
  EXPECT_TRUE(absl::IsInternal(skips.End()));
  EXPECT_TRUE(absl::IsInternal(floods.End()));
  EXPECT_TRUE(generator_->WaitCancelled(flood));
  std::string text;
  EXPECT_TRUE(good.End(&text).ok());
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
  EXPECT_TRUE(stream.End(&text).ok());
  EXPECT_EQ(text, "right");
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
  const absl::Status status = stream.End();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonTokenizerMismatch);
  EXPECT_EQ(generator.num_submits(), 0u);
}

class ProtocolVersionTest : public testing::TestWithParam<uint32_t> {};

// None, and such as this gateway did not ask for.
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
              absl::StrCat("it speaks version ", GetParam(), " of the protocol, not 1 to 1")) {
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
    EXPECT_TRUE(stream.End().ok());
  }
  leaving.SendTokens(sequence, "to the end");
  leaving.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(old_stream.End(&text).ok());
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
  EXPECT_TRUE(next.End().ok());
  leaving.SendTokens(sequence, "text");
  leaving.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(stream.End(&text).ok());
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

}  // namespace
}  // namespace qwenserve
