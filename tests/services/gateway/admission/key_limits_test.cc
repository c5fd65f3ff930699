#include "services/gateway/admission/key_limits.h"

#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

class KeyLimitsTest : public testing::Test {
 protected:
  KeyLimitsTest()
      : registry_("gateway"), metrics_(registry_), limits_([this] { return now_; }, &metrics_) {}

  static std::shared_ptr<const KeyGrant> Grant(std::string key, int64_t requests, int64_t tokens,
                                               int64_t concurrent) {
    auto grant = std::make_shared<KeyGrant>();
    grant->sha256 = std::move(key);
    grant->tenant = "acme";
    grant->requests_per_minute = requests;
    grant->tokens_per_minute = tokens;
    grant->concurrent_requests = concurrent;
    return grant;
  }

  Metrics registry_;
  GatewayMetrics metrics_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  KeyLimits limits_;
};

TEST_F(KeyLimitsTest, WithoutAGrantNothingIsLimited) {
  for (int i = 0; i < 100; ++i) {
    auto ticket = limits_.Enter(nullptr);
    ASSERT_TRUE(ticket.ok());
    EXPECT_TRUE(ticket->TakePrompt(1 << 30).ok());
    ticket->TakeAnswer(1 << 30);
  }
  EXPECT_TRUE(KeyLimits::CheckPriority(nullptr, 1000).ok());
  EXPECT_EQ(limits_.keys(), 0u);
}

TEST_F(KeyLimitsTest, RequestsComeBackEvenly) {
  const auto grant = Grant("a", 60, 0, 0);
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(limits_.Enter(grant).ok()) << i;
  const absl::Status refusal = limits_.Enter(grant).status();
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(refusal), kReasonQuotaExceeded);
  EXPECT_EQ(ErrorMetadata(refusal, "limit"), "requests_per_minute");
  EXPECT_TRUE(refusal.GetPayload("type.googleapis.com/google.rpc.QuotaFailure").has_value());
  // Who comes back when told to is served, who comes before is not.
  const absl::Duration delay = ErrorRetryAfter(refusal);
  EXPECT_GE(delay, absl::Seconds(1));
  EXPECT_LE(delay, absl::Seconds(1.25));
  now_ += absl::Milliseconds(900);
  EXPECT_FALSE(limits_.Enter(grant).ok());
  now_ += absl::Milliseconds(100);
  EXPECT_TRUE(limits_.Enter(grant).ok());
  EXPECT_FALSE(limits_.Enter(grant).ok());
  // Another key has its own.
  EXPECT_TRUE(limits_.Enter(Grant("b", 60, 0, 0)).ok());
}

TEST_F(KeyLimitsTest, AnswersOverdrawAndPromptsWait) {
  const auto grant = Grant("a", 0, 600, 0);
  auto first = limits_.Enter(grant);
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(first->TakePrompt(400).ok());
  const absl::Status refusal = limits_.Enter(grant)->TakePrompt(300);
  EXPECT_EQ(ErrorMetadata(refusal, "limit"), "tokens_per_minute");
  EXPECT_GE(ErrorRetryAfter(refusal), absl::Seconds(10));
  EXPECT_LE(ErrorRetryAfter(refusal), absl::Seconds(12.5));
  // 200 are left; the answer takes 500. No request begins before the debt is paid: 30 s.
  first->TakeAnswer(500);
  const absl::Status debt = limits_.Enter(grant).status();
  EXPECT_EQ(ErrorReason(debt), kReasonQuotaExceeded);
  now_ += absl::Seconds(30);
  EXPECT_FALSE(limits_.Enter(grant).ok());
  now_ += absl::Milliseconds(101);
  auto second = limits_.Enter(grant);
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(second->TakePrompt(2).ok());
  now_ += absl::Seconds(60);
  // More than a minute's worth: only from a full bucket.
  EXPECT_TRUE(second->TakePrompt(1200).ok());
  now_ += absl::Seconds(60);
  EXPECT_FALSE(limits_.Enter(grant).ok());
}

TEST_F(KeyLimitsTest, PlacesAreGivenBack) {
  const auto grant = Grant("a", 0, 0, 2);
  std::vector<KeyLimits::Ticket> inside;
  inside.push_back(*limits_.Enter(grant));
  inside.push_back(*limits_.Enter(grant));
  const absl::Status refusal = limits_.Enter(grant).status();
  EXPECT_EQ(ErrorMetadata(refusal, "limit"), "concurrent_requests");
  EXPECT_EQ(limits_.in_flight(), 2);
  inside.pop_back();
  EXPECT_TRUE(limits_.Enter(grant).ok());
  inside.clear();
  EXPECT_EQ(limits_.in_flight(), 0);
}

TEST_F(KeyLimitsTest, ALimitThatIsChangedHoldsAtOnce) {
  ASSERT_TRUE(limits_.Enter(Grant("a", 1, 0, 0)).ok());
  EXPECT_FALSE(limits_.Enter(Grant("a", 1, 0, 0)).ok());
  now_ += absl::Seconds(1);
  EXPECT_TRUE(limits_.Enter(Grant("a", 6000, 0, 0)).ok());
}

TEST_F(KeyLimitsTest, IdleKeysAreForgottenAndOthersKept) {
  auto held = limits_.Enter(Grant("held", 0, 0, 1));
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(limits_.Enter(Grant(std::to_string(i), 60, 0, 0)).ok());
    now_ += absl::Milliseconds(100);
  }
  // A bucket is full again after a second.
  EXPECT_LE(limits_.keys(), 1024u);
  EXPECT_FALSE(limits_.Enter(Grant("held", 0, 0, 1)).ok());
}

TEST_F(KeyLimitsTest, WhatTheGatewayHasNoRoomForCostsNothing) {
  const auto grant = Grant("a", 2, 100, 0);
  for (int i = 0; i < 10; ++i) {
    auto ticket = limits_.Enter(grant);
    ASSERT_TRUE(ticket.ok()) << i;
    ASSERT_TRUE(ticket->TakePrompt(90).ok()) << i;
    ticket->GiveBack();
  }
  // Not more than was taken.
  EXPECT_TRUE(limits_.Enter(grant)->TakePrompt(100).ok());
  now_ += absl::Milliseconds(1);
  EXPECT_FALSE(limits_.Enter(grant).ok());
}

TEST_F(KeyLimitsTest, PrioritiesOutsideTheGrantAreRefusedByName) {
  KeyGrant grant;
  grant.priority_max = 5;
  EXPECT_TRUE(KeyLimits::CheckPriority(&grant, 5).ok());
  EXPECT_TRUE(KeyLimits::CheckPriority(&grant, -1000).ok());
  const absl::Status priority = KeyLimits::CheckPriority(&grant, 6);
  EXPECT_EQ(priority.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrorReason(priority), kReasonNotGranted);
  EXPECT_EQ(ErrorField(priority), "options.priority");
}

}  // namespace
}  // namespace qwenserve
