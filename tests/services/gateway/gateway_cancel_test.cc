// Clients that leave or run out of time: nothing goes on for them.

#include <string>
#include <thread>

#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

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
  EXPECT_TRUE(first.End().ok());
}

TEST_F(GatewayTest, ClientDeadlineReachesTheGenerator) {
  Start();
  ChatStream stream(stub(), UserSays("hello"), std::chrono::milliseconds(1500));
  const v1::Submit submit = generator_->WaitSubmit(0);
  EXPECT_LE(submit.time_left().seconds(), 1);
  EXPECT_TRUE(generator_->WaitCancelled(submit.sequence()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(stream.End()));
}

TEST_F(GatewayTest, MaxRequestTimeEndsAStreamWithWhatItHas) {
  Start({}, {},
        [](GatewayOptions& options) { options.call.max_request_time = absl::Milliseconds(1500); });
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  generator_->SendTokens(sequence, "abc");
  std::string text;
  const absl::Status status = stream.End(&text);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(ErrorMetadata(status, "tokens_sent"), "3");
  EXPECT_TRUE(generator_->WaitCancelled(sequence));
}

}  // namespace
}  // namespace qwenserve
