// A lost replica, over real streams: what its successor is told, and that the client sees nothing.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

FakeGenerator::Options Equal() {
  FakeGenerator::Options options;
  options.hello.set_numerics_fingerprint("bits");
  return options;
}

std::string Ids(const google::protobuf::RepeatedField<uint32_t>& ids) {
  return std::string(ids.begin(), ids.end());
}

// Two equal replicas; the first one that gets a request is lost.
class GatewayFailoverTest : public testing::Test {
 protected:
  void Start(FakeGenerator::Options first = Equal(), FakeGenerator::Options second = Equal(),
             absl::Duration wait = absl::Seconds(5)) {
    generators_.push_back(std::make_unique<FakeGenerator>(first));
    generators_.push_back(std::make_unique<FakeGenerator>(second));
    GatewayOptions options =
        OptionsFor({tokenizer_.address()}, {generators_[0]->address(), generators_[1]->address()});
    options.session.heartbeat_interval = absl::Milliseconds(50);
    options.call.failover_wait = wait;
    harness_ = std::make_unique<GatewayHarness>(options);
    ASSERT_TRUE(harness_->WaitServed());
    ASSERT_TRUE(harness_->WaitReplicas(2));
  }
  // Waits for the first Submit, and tells who has it.
  void Find() {
    ASSERT_TRUE(Eventually([&] {
      for (auto& generator : generators_) {
        if (generator->num_submits() == 0) continue;
        loser_ = generator.get();
        return true;
      }
      return false;
    }));
    heir_ = generators_[loser_ == generators_[0].get()].get();
  }
  std::string Metric(const std::string& line) {
    const std::string all = harness_->Scrape();
    const size_t at = all.find("\n" + line);
    return at == std::string::npos ? "" : all.substr(at + 1, all.find('\n', at + 1) - at - 1);
  }

  FakeTokenizer tokenizer_;
  std::vector<std::unique_ptr<FakeGenerator>> generators_;
  std::unique_ptr<GatewayHarness> harness_;
  FakeGenerator* loser_ = nullptr;
  FakeGenerator* heir_ = nullptr;
};

TEST_F(GatewayFailoverTest, TheHeirIsToldAllAndTheClientNothing) {
  Start();
  v1::ChatRequest request = UserSays("hello");
  request.mutable_options()->mutable_sampling()->set_temperature(0.7f);
  ChatStream stream(harness_->stub(), request);
  Find();
  const v1::Submit first = loser_->WaitSubmit(0);
  loser_->SendTokens(first.sequence(), "one \xF0\x9F");
  EXPECT_TRUE(stream.Next().has_started());
  EXPECT_EQ(stream.Next().delta().text(), "one ");
  loser_->Kill();
  const v1::Submit second = heir_->WaitSubmit(0);
  EXPECT_EQ(second.attempt(), 1u);
  EXPECT_EQ(second.request_id(), first.request_id());
  EXPECT_EQ(Ids(second.prompt_ids()), "hello");
  EXPECT_EQ(Ids(second.resumed_ids()), "one \xF0\x9F");
  EXPECT_EQ(second.sampling().SerializeAsString(), first.sampling().SerializeAsString());
  EXPECT_EQ(second.max_tokens(), first.max_tokens());
  heir_->SendTokens(second.sequence(), "\x98\x80 two");
  heir_->SendFinish(second.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  v1::Finished finished;
  EXPECT_EQ(stream.ReadText(&finished), "\xF0\x9F\x98\x80 two");
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_EQ(finished.usage().completion_tokens(), 12u);
  EXPECT_THAT(Metric("qwenserve_gateway_failovers_total{cause=\"ended\"}"), HasSubstr("} 1"));
  EXPECT_THAT(Metric("qwenserve_gateway_failover_gap_seconds_count"), HasSubstr(" 1"));
}

TEST_F(GatewayFailoverTest, EachSampleGoesOnAtItsOwnIndex) {
  Start();
  v1::ChatRequest request = UserSays("hello");
  request.mutable_options()->set_n(2);
  ChatStream stream(harness_->stub(), request);
  Find();
  loser_->SendTokens(loser_->WaitSubmit(1).sequence(), "abc");
  ASSERT_TRUE(Eventually([&] {
    return Metric("qwenserve_gateway_completion_tokens_total").find(" 3") != std::string::npos;
  }));
  loser_->Kill();
  for (size_t i = 0; i < 2; ++i) {
    const v1::Submit submit = heir_->WaitSubmit(i);
    EXPECT_EQ(submit.attempt(), 1u);
    EXPECT_EQ(submit.resumed_ids_size(), submit.sample_index() == 1 ? 3 : 0);
    heir_->SendTokens(submit.sequence(), submit.sample_index() == 1 ? "def" : "x");
    heir_->SendFinish(submit.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  }
  v1::StreamChatResponse response;
  std::vector<std::string> texts(2);
  while (stream.Read(&response)) {
    if (response.has_delta()) texts[response.delta().choice()] += response.delta().text();
  }
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_EQ(texts[0], "x");
  EXPECT_EQ(texts[1], "abcdef");
}

TEST_F(GatewayFailoverTest, ASilentReplicaIsLeft) {
  Start();
  ChatStream stream(harness_->stub(), UserSays("hello"));
  Find();
  loser_->SendTokens(loser_->WaitSubmit(0).sequence(), "ab");
  loser_->SilenceHeartbeats(true);
  const v1::Submit second = heir_->WaitSubmit(0);
  EXPECT_EQ(Ids(second.resumed_ids()), "ab");
  heir_->SendFinish(second.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(stream.ReadText(), "ab");
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_THAT(Metric("qwenserve_gateway_failovers_total{cause=\"silent\"}"), HasSubstr("} 1"));
}

TEST_F(GatewayFailoverTest, AStalledReplicaIsLeftAndToldSo) {
  Start();
  ChatStream stream(harness_->stub(), UserSays("hello"));
  Find();
  const uint64_t sequence = loser_->WaitSubmit(0).sequence();
  loser_->SendTokens(sequence, "ab");
  v1::EngineStats stalled;
  stalled.set_running(1);
  stalled.mutable_step_age()->set_seconds(10);
  stalled.mutable_step_budget()->set_seconds(4);
  loser_->SetStats(stalled);
  const v1::Submit second = heir_->WaitSubmit(0);
  EXPECT_TRUE(loser_->WaitCancelled(sequence));
  loser_->SendTokens(sequence, "late");
  heir_->SendFinish(second.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(stream.ReadText(), "ab");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayFailoverTest, ADrainingReplicaHandsOverShortlyBeforeItGoes) {
  Start();
  ChatStream stream(harness_->stub(), UserSays("hello"));
  Find();
  const uint64_t sequence = loser_->WaitSubmit(0).sequence();
  loser_->SendTokens(sequence, "ab");
  loser_->SendDraining(600);
  ASSERT_TRUE(harness_->WaitReplicas(1));
  loser_->SendTokens(sequence, "cd");
  EXPECT_EQ(heir_->num_submits(), 0u);
  loser_->SendDraining(10);
  const v1::Submit second = heir_->WaitSubmit(0);
  EXPECT_EQ(Ids(second.resumed_ids()), "abcd");
  EXPECT_TRUE(loser_->WaitCancelled(sequence));
  heir_->SendFinish(second.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(stream.ReadText(), "abcd");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayFailoverTest, WithoutAnEqualReplicaADrainingOneKeepsIt) {
  FakeGenerator::Options other = Equal();
  other.hello.set_numerics_fingerprint("other bits");
  Start(Equal(), other);
  ChatStream stream(harness_->stub(), UserSays("hello"));
  Find();
  const uint64_t sequence = loser_->WaitSubmit(0).sequence();
  loser_->SendDraining(5);
  ASSERT_TRUE(harness_->WaitReplicas(1));
  loser_->SendTokens(sequence, "to the end");
  loser_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(stream.ReadText(), "to the end");
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_EQ(heir_->num_submits(), 0u);
}

TEST_F(GatewayFailoverTest, AnotherFingerprintIsNoHeir) {
  FakeGenerator::Options other = Equal();
  other.hello.set_numerics_fingerprint("other bits");
  Start(Equal(), other, absl::Milliseconds(300));
  ChatStream stream(harness_->stub(), UserSays("hello"));
  Find();
  loser_->SendTokens(loser_->WaitSubmit(0).sequence(), "ab");
  EXPECT_TRUE(stream.Next().has_started());
  EXPECT_EQ(stream.Next().delta().text(), "ab");
  loser_->Kill();
  EXPECT_EQ(stream.ReadText(), "");
  const absl::Status status = stream.Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonWorkerLost);
  EXPECT_EQ(ErrorMetadata(status, "tokens_sent"), "2");
  EXPECT_EQ(heir_->num_submits(), 0u);
}

TEST_F(GatewayFailoverTest, PoisonTakesDownTwoReplicasAtMost) {
  std::vector<std::unique_ptr<FakeGenerator>> replicas;
  std::vector<std::string> addresses;
  for (int i = 0; i < 3; ++i) {
    replicas.push_back(std::make_unique<FakeGenerator>(Equal()));
    addresses.push_back(replicas.back()->address());
  }
  harness_ = std::make_unique<GatewayHarness>(OptionsFor({tokenizer_.address()}, addresses));
  ASSERT_TRUE(harness_->WaitServed());
  ASSERT_TRUE(harness_->WaitReplicas(3));
  ChatStream stream(harness_->stub(), UserSays("hello"));
  for (int loss = 0; loss < 2; ++loss) {
    auto has_it = replicas.end();
    ASSERT_TRUE(Eventually([&] {
      has_it = std::find_if(replicas.begin(), replicas.end(),
                            [](const auto& replica) { return replica->num_submits() > 0; });
      return has_it != replicas.end();
    }));
    replicas.erase(has_it);
  }
  EXPECT_EQ(stream.ReadText(), "");
  const absl::Status status = stream.Finish();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonSuspectedPoison);
  EXPECT_THAT(Metric("qwenserve_gateway_suspected_poison_total"), HasSubstr(" 1"));
  EXPECT_EQ(replicas[0]->num_submits(), 0u);
}

TEST_F(GatewayFailoverTest, ALoneReplicaThatComesBackGoesOn) {
  Start();
  // Only the one that has the request is there.
  ChatStream stream(harness_->stub(), UserSays("hello"));
  Find();
  const int port = loser_->port();
  heir_->Kill();
  loser_->SendTokens(loser_->WaitSubmit(0).sequence(), "ab");
  EXPECT_TRUE(stream.Next().has_started());
  EXPECT_EQ(stream.Next().delta().text(), "ab");
  loser_->Kill();
  FakeGenerator::Options options = Equal();
  options.port = port;
  FakeGenerator successor(options);
  const v1::Submit submit = successor.WaitSubmit(0);
  EXPECT_EQ(Ids(submit.resumed_ids()), "ab");
  successor.SendTokens(submit.sequence(), "cd");
  successor.SendFinish(submit.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(stream.ReadText(), "cd");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayFailoverTest, ARefusalAtTheDoorIsTriedElsewhere) {
  Start();
  ChatStream stream(harness_->stub(), UserSays("hello"));
  Find();
  loser_->SendError(loser_->WaitSubmit(0).sequence(),
                    WithReason(absl::ResourceExhaustedError("full"), kReasonQueueFull));
  const v1::Submit second = heir_->WaitSubmit(0);
  heir_->SendTokens(second.sequence(), "ok");
  heir_->SendFinish(second.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(stream.ReadText(), "ok");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayFailoverTest, AResumedRequestGoesBeforeThoseThatWait) {
  FakeGenerator::Options narrow[2] = {Equal(), Equal()};
  for (FakeGenerator::Options& options : narrow) {
    options.hello.mutable_limits()->set_max_running(1);
    options.hello.mutable_limits()->set_max_batch_tokens(1);
  }
  Start(narrow[0], narrow[1]);
  ChatStream first(harness_->stub(), UserSays("first"));
  Find();
  loser_->SendTokens(loser_->WaitSubmit(0).sequence(), "ab");
  ChatStream other(harness_->stub(), UserSays("other"));
  const uint64_t busy = heir_->WaitSubmit(0).sequence();
  v1::ChatRequest urgent = UserSays("urgent!");
  urgent.mutable_options()->set_priority(9);
  ChatStream waits(harness_->stub(), urgent);
  ASSERT_TRUE(Eventually([&] { return Metric("qwenserve_gateway_requests_waiting 1") != ""; }));
  loser_->Kill();
  ASSERT_TRUE(Eventually([&] { return Metric("qwenserve_gateway_requests_waiting 2") != ""; }));
  heir_->SendFinish(busy, v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(Ids(heir_->WaitSubmit(1).prompt_ids()), "first");
  heir_->SendFinish(heir_->WaitSubmit(1).sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_EQ(Ids(heir_->WaitSubmit(2).prompt_ids()), "urgent!");
}

}  // namespace
}  // namespace qwenserve
