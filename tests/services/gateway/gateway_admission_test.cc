// A gateway that has enough to do.

#include <string>

#include "gmock/gmock.h"
#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

TEST_F(GatewayTest, FullGatewayRefusesAtOnce) {
  Start({}, {}, [](GatewayOptions& options) { options.admission.max_requests = 2; });
  ChatStream first(stub(), UserSays("1"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  ChatStream second(stub(), UserSays("2"));
  generator_->WaitSubmit(1);
  ChatStream third(stub(), UserSays("3"));
  absl::Status status = third.End();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonQueueFull);
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_TRUE(first.End().ok());
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
  const absl::Status status = refused.End();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonQueueFull);
  EXPECT_THAT(harness_->Scrape(),
              testing::HasSubstr("qwenserve_gateway_sheds_total{cause=\"queue_full\"} 1"));
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  generator_->SendFinish(generator_->WaitSubmit(1).sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  EXPECT_TRUE(waiting.End().ok());
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
  const absl::Status status = waiting.End();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonNoWorker);
}

}  // namespace
}  // namespace qwenserve
