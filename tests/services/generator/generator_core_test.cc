#include "services/generator/generator_core.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/session_protocol.h"
#include "services/generator/submit_conversion.h"
#include "tests/services/generator/fake_engine.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

const absl::Time kStart = absl::FromUnixSeconds(1000);

v1::SessionRequest Hello(uint32_t version = 1) {
  v1::SessionRequest request;
  request.mutable_hello()->set_protocol_version(version);
  return request;
}

v1::SessionRequest Submit(uint64_t sequence, int prompt = 3, int max_tokens = 10) {
  v1::SessionRequest request;
  v1::Submit* submit = request.mutable_submit();
  submit->set_sequence(sequence);
  submit->set_request_id("r");
  for (int i = 0; i < prompt; ++i) submit->add_prompt_ids(7 + i);
  submit->mutable_sampling()->set_seed(1);
  submit->set_max_tokens(max_tokens);
  submit->set_initial_credit(5);
  return request;
}

class GeneratorCoreTest : public ::testing::Test {
 protected:
  GeneratorCoreTest()
      : registry_("generator"), metrics_(registry_, "m"), core_(&engine_, MakeHello(), &metrics_) {}

  v1::ServerHello MakeHello() {
    v1::ServerHello hello = MakeServerHello(engine_.info());
    hello.set_model("m");
    return hello;
  }

  // A greeted session; its hello has been taken.
  uint64_t Open(std::shared_ptr<SessionOutbox>* outbox) {
    *outbox = std::make_shared<SessionOutbox>([this] { ++wakes_; });
    const uint64_t id = *core_.OpenSession(*outbox, kStart);
    EXPECT_TRUE(core_.OnMessage(id, Hello(), kStart).ok());
    auto hello = (*outbox)->Take();
    EXPECT_TRUE(hello.has_value() && hello->has_hello());
    return id;
  }

  uint64_t LastHandle() const { return engine_.submitted.rbegin()->first; }

  static StepEvents Step(uint64_t handle, int64_t index, std::vector<int32_t> ids,
                         FinishReason finish = FinishReason::kNone) {
    StepEvents events;
    events.step = 9;
    SequenceEvent event;
    event.sequence = handle;
    event.first_token_index = index;
    event.ids = std::move(ids);
    event.finish = finish;
    events.sequences.push_back(std::move(event));
    return events;
  }

  FakeEngine engine_;
  Metrics registry_;
  GeneratorMetrics metrics_;
  GeneratorCore core_;
  int wakes_ = 0;
};

TEST_F(GeneratorCoreTest, HelloTellsModelAndLimits) {
  auto outbox = std::make_shared<SessionOutbox>([] {});
  const uint64_t id = *core_.OpenSession(outbox, kStart);
  ASSERT_TRUE(core_.OnMessage(id, Hello(), kStart).ok());
  const auto message = outbox->Take();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->hello().model(), "m");
  EXPECT_EQ(message->hello().numerics_fingerprint(), "f00d");
  EXPECT_EQ(message->hello().limits().max_model_len(), 100u);
  EXPECT_EQ(message->hello().limits().block_tokens(), 16u);
  EXPECT_EQ(message->hello().device(), "cpu");
}

TEST_F(GeneratorCoreTest, SpeaksToNewerGatewaysAsItCan) {
  for (const uint32_t version : {kSessionProtocol, kSessionProtocol + 1, kSessionProtocol + 7}) {
    auto outbox = std::make_shared<SessionOutbox>([] {});
    const uint64_t id = *core_.OpenSession(outbox, kStart);
    ASSERT_TRUE(core_.OnMessage(id, Hello(version), kStart).ok()) << version;
    const auto message = outbox->Take();
    ASSERT_TRUE(message.has_value() && message->has_hello());
    EXPECT_EQ(message->hello().protocol_version(), kSessionProtocol);
    EXPECT_TRUE(core_.OnMessage(id, Submit(1), kStart).ok());
  }
}

TEST_F(GeneratorCoreTest, RefusesAnOldProtocolVersionAndAMissingHello) {
  auto outbox = std::make_shared<SessionOutbox>([] {});
  const uint64_t id = *core_.OpenSession(outbox, kStart);
  EXPECT_EQ(core_.OnMessage(id, Submit(1), kStart).code(), absl::StatusCode::kFailedPrecondition);
  const absl::Status status = core_.OnMessage(id, Hello(kOldestSessionProtocol - 1), kStart);
  EXPECT_EQ(ErrorReason(status), kReasonProtocolVersion);
  EXPECT_THAT(status.message(), HasSubstr(absl::StrCat(kOldestSessionProtocol - 1)));
}

TEST_F(GeneratorCoreTest, RoutesTokensToTheSessionThatAskedUnderItsOwnNumber) {
  std::shared_ptr<SessionOutbox> a, b;
  const uint64_t session_a = Open(&a);
  const uint64_t session_b = Open(&b);
  ASSERT_TRUE(core_.OnMessage(session_a, Submit(1), kStart).ok());
  const uint64_t handle_a = LastHandle();
  ASSERT_TRUE(core_.OnMessage(session_b, Submit(1), kStart).ok());
  const uint64_t handle_b = LastHandle();
  EXPECT_EQ(engine_.submitted.at(handle_a).credit, 5);

  core_.OnStep(Step(handle_a, 0, {11, 12}), kStart);
  core_.OnStep(Step(handle_b, 4, {13}, FinishReason::kLength), kStart);

  const auto for_a = a->Take();
  ASSERT_TRUE(for_a.has_value());
  ASSERT_EQ(for_a->step_events().events_size(), 1);
  EXPECT_EQ(for_a->step_events().events(0).sequence(), 1u);
  EXPECT_THAT(for_a->step_events().events(0).token_ids(), ElementsAre(11, 12));
  EXPECT_FALSE(for_a->step_events().events(0).has_finish());
  const auto for_b = b->Take();
  ASSERT_TRUE(for_b.has_value());
  EXPECT_EQ(for_b->step_events().events(0).first_token_index(), 4u);
  EXPECT_EQ(for_b->step_events().events(0).finish().reason(), v1::SEQUENCE_FINISH_REASON_LENGTH);
  EXPECT_EQ(core_.open_sequences(), 1u);
  EXPECT_EQ(metrics_.finished_length.Value(), 1);
}

TEST_F(GeneratorCoreTest, TellsTheModelsOwnEndFromAStopIdOfTheRequest) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  for (int32_t stop_id : {FakeEngine::kEosId, 55}) {
    ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
    StepEvents events = Step(LastHandle(), 0, {}, FinishReason::kStop);
    events.sequences[0].stop_token_id = stop_id;
    core_.OnStep(events, kStart);
    const auto message = outbox->Take();
    const v1::SequenceFinish& finish = message->step_events().events(0).finish();
    EXPECT_EQ(finish.stop_token_id(), static_cast<uint32_t>(stop_id));
    EXPECT_EQ(finish.reason(), stop_id == FakeEngine::kEosId
                                   ? v1::SEQUENCE_FINISH_REASON_EOS
                                   : v1::SEQUENCE_FINISH_REASON_STOP_TOKEN);
  }
}

TEST_F(GeneratorCoreTest, StepsThatPileUpLeaveInOneMessage) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  for (int i = 0; i < 3; ++i) core_.OnStep(Step(LastHandle(), i, {i}), kStart);
  const auto message = outbox->Take();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->step_events().events_size(), 3);
  EXPECT_FALSE(outbox->Take().has_value());
}

TEST_F(GeneratorCoreTest, WakesOnlyAnOutboxThatWasFoundEmpty) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  EXPECT_FALSE(outbox->Take().has_value());
  wakes_ = 0;
  core_.OnStep(Step(LastHandle(), 0, {1}), kStart);
  core_.OnStep(Step(LastHandle(), 1, {2}), kStart);
  EXPECT_EQ(wakes_, 1);
}

TEST_F(GeneratorCoreTest, ARefusedSubmitIsItsOnlyEventAndNamesTheField) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1, 95, 10), kStart).ok());
  const auto message = outbox->Take();
  ASSERT_TRUE(message.has_value());
  ASSERT_EQ(message->step_events().events_size(), 1);
  const v1::SequenceFinish& finish = message->step_events().events(0).finish();
  EXPECT_EQ(finish.reason(), v1::SEQUENCE_FINISH_REASON_ERROR);
  const absl::Status status = FromProtoStatus(finish.status());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorField(status), "max_tokens");
  EXPECT_THAT(status.message(), HasSubstr("95"));
  EXPECT_THAT(status.message(), HasSubstr("100"));
  EXPECT_TRUE(engine_.submitted.empty());
}

TEST_F(GeneratorCoreTest, WhatTheEngineCannotDoIsRefusedByName) {
  const auto refused = [&](auto change) {
    std::shared_ptr<SessionOutbox> outbox;
    const uint64_t session = Open(&outbox);
    v1::SessionRequest request = Submit(1);
    change(request.mutable_submit());
    EXPECT_TRUE(core_.OnMessage(session, request, kStart).ok());
    const auto message = outbox->Take();
    if (!message) return std::string("accepted");
    return ErrorField(FromProtoStatus(message->step_events().events(0).finish().status()));
  };
  EXPECT_EQ(refused([](v1::Submit*) {}), "accepted");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_min_tokens(1000); }), "min_tokens");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_top_logprobs(21); }), "top_logprobs");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_top_logprobs(~0u); }), "top_logprobs");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_prompt_logprobs(21); }), "prompt_logprobs");
  EXPECT_EQ(refused([](v1::Submit* s) { s->add_stop_token_ids(1000); }), "stop_token_ids[0]");
  for (uint32_t id : {1000u, ~0u}) {
    EXPECT_EQ(
        refused([id](v1::Submit* s) { (*s->mutable_sampling()->mutable_logit_bias())[id] = 1; }),
        "sampling.logit_bias[0]");
  }
  EXPECT_EQ(refused([](v1::Submit* s) { (*s->mutable_sampling()->mutable_logit_bias())[3] = 101; }),
            "sampling.logit_bias[3]");
  EXPECT_EQ(refused([](v1::Submit* s) { s->mutable_sampling()->clear_seed(); }), "sampling.seed");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_prompt_ids(1, 1000); }), "prompt_ids[1]");
  EXPECT_EQ(refused([](v1::Submit* s) { s->mutable_sampling()->set_top_p(2); }), "sampling.top_p");
  EXPECT_EQ(refused([](v1::Submit* s) { s->clear_prompt_ids(); }), "prompt_ids");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_max_tokens(0); }), "max_tokens");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_request_id(std::string(129, 'x')); }), "request_id");
  EXPECT_EQ(refused([](v1::Submit* s) { s->set_traceparent(std::string(56, '0')); }),
            "traceparent");
}

TEST_F(GeneratorCoreTest, SamplingParametersReachTheEngine) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  v1::SessionRequest request = Submit(1);
  v1::Submit* submit = request.mutable_submit();
  submit->set_sample_index(3);
  submit->set_min_tokens(2);
  submit->set_top_logprobs(5);
  submit->set_prompt_logprobs(0);
  submit->set_ignore_eos(true);
  submit->add_stop_token_ids(7);
  (*submit->mutable_sampling()->mutable_logit_bias())[9] = -1.5f;
  (*submit->mutable_sampling()->mutable_logit_bias())[4] = 2.0f;
  ASSERT_TRUE(core_.OnMessage(session, request, kStart).ok());
  ASSERT_EQ(engine_.submitted.size(), 1u);
  const SequenceRequest& taken = engine_.submitted.begin()->second;
  EXPECT_EQ(taken.sample_index, 3);
  EXPECT_EQ(taken.sampling.min_tokens, 2);
  EXPECT_EQ(taken.sampling.num_logprobs, 5);
  EXPECT_EQ(taken.sampling.num_prompt_logprobs, 0);
  EXPECT_TRUE(taken.sampling.ignore_eos);
  EXPECT_THAT(taken.sampling.stop_token_ids, ElementsAre(7));
  ASSERT_EQ(taken.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(taken.sampling.logit_bias[0].id, 4);
  EXPECT_EQ(taken.sampling.logit_bias[1].bias, -1.5f);
}

TEST_F(GeneratorCoreTest, LogprobsTravelWithTheTokens) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  StepEvents step = Step(LastHandle(), 0, {8});
  step.sequences[0].logprobs = {{.id = 8, .logprob = -0.5f, .top = {{8, -0.5f}, {3, -2.0f}}}};
  step.sequences[0].first_prompt_index = 1;
  step.sequences[0].prompt_logprobs = {{.id = 6, .logprob = -4.0f}};
  core_.OnStep(step, kStart);
  const auto message = outbox->Take();
  ASSERT_TRUE(message.has_value());
  const v1::SequenceEvent& event = message->step_events().events(0);
  ASSERT_EQ(event.logprobs_size(), 1);
  EXPECT_EQ(event.logprobs(0).logprob(), -0.5f);
  EXPECT_THAT(event.logprobs(0).top_ids(), ElementsAre(8, 3));
  EXPECT_THAT(event.logprobs(0).top_logprobs(), ElementsAre(-0.5f, -2.0f));
  EXPECT_EQ(event.first_prompt_index(), 1u);
  ASSERT_EQ(event.prompt_logprobs_size(), 1);
  EXPECT_EQ(event.prompt_logprobs(0).token_id(), 6u);
  EXPECT_EQ(event.prompt_logprobs(0).logprob(), -4.0f);
}

TEST_F(GeneratorCoreTest, BrokenLogitsAreAnInternalErrorWithAReason) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  StepEvents step = Step(LastHandle(), 0, {}, FinishReason::kNumeric);
  step.sequences[0].error = absl::InternalError("the model's logits for token 5");
  core_.OnStep(step, kStart);
  const auto message = outbox->Take();
  ASSERT_TRUE(message.has_value());
  const v1::SequenceFinish& finish = message->step_events().events(0).finish();
  EXPECT_EQ(finish.reason(), v1::SEQUENCE_FINISH_REASON_ERROR);
  const absl::Status status = FromProtoStatus(finish.status());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ErrorReason(status), kReasonNumeric);
}

TEST_F(GeneratorCoreTest, ASequenceNumberThatIsOpenEndsTheSession) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  EXPECT_EQ(core_.OnMessage(session, Submit(1), kStart).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GeneratorCoreTest, CancelCreditAndTheEndOfASessionReachTheEngine) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  const uint64_t first = LastHandle();
  ASSERT_TRUE(core_.OnMessage(session, Submit(2), kStart).ok());
  const uint64_t second = LastHandle();
  ASSERT_TRUE(core_.OnMessage(session, Submit(3), kStart).ok());
  const uint64_t third = LastHandle();

  v1::SessionRequest cancel;
  cancel.mutable_cancel()->add_sequences(1);
  cancel.mutable_cancel()->add_sequences(77);
  ASSERT_TRUE(core_.OnMessage(session, cancel, kStart).ok());
  EXPECT_THAT(engine_.cancelled, ElementsAre(first));
  v1::SessionRequest credit;
  auto* item = credit.mutable_credit()->add_credits();
  item->set_sequence(2);
  item->set_tokens(8);
  ASSERT_TRUE(core_.OnMessage(session, credit, kStart).ok());
  EXPECT_EQ(engine_.credit[second], 8);

  core_.OnStep(Step(first, 0, {}, FinishReason::kCancelled), kStart);
  engine_.cancelled.clear();
  core_.CloseSession(session);
  EXPECT_THAT(engine_.cancelled, UnorderedElementsAre(second, third));
  // Their last events find no session and are dropped without harm.
  core_.OnStep(Step(second, 0, {}, FinishReason::kCancelled), kStart);
  core_.OnStep(Step(third, 0, {}, FinishReason::kCancelled), kStart);
  EXPECT_EQ(core_.open_sequences(), 0u);
}

TEST_F(GeneratorCoreTest, ASilentGatewayLosesItsSessionAfterFiveSeconds) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  v1::SessionRequest heartbeat;
  heartbeat.mutable_heartbeat();
  ASSERT_TRUE(core_.OnMessage(session, heartbeat, kStart + absl::Seconds(3)).ok());
  core_.Beat(kStart + absl::Seconds(8));
  EXPECT_TRUE(outbox->Health().ok());
  EXPECT_TRUE(outbox->Take()->has_heartbeat());
  core_.Beat(kStart + absl::Seconds(8.1));
  EXPECT_EQ(outbox->Health().code(), absl::StatusCode::kUnavailable);
}

TEST_F(GeneratorCoreTest, OnlyTheNewestHeartbeatWaits) {
  std::shared_ptr<SessionOutbox> outbox;
  Open(&outbox);
  engine_.stats.step = 1;
  core_.Beat(kStart);
  engine_.stats.step = 2;
  engine_.stats.running = 3;
  engine_.stats.counters.prompt_tokens = 400;
  engine_.stats.counters.generated_tokens = 50;
  core_.Beat(kStart + absl::Seconds(0.5));
  const auto message = outbox->Take();
  ASSERT_TRUE(message && message->has_heartbeat());
  EXPECT_EQ(message->heartbeat().stats().step(), 2u);
  EXPECT_EQ(message->heartbeat().stats().running(), 3u);
  EXPECT_EQ(message->heartbeat().stats().prompt_tokens(), 400u);
  EXPECT_EQ(message->heartbeat().stats().generated_tokens(), 50u);
  EXPECT_EQ(message->heartbeat().stats().read_at().nanos(), 500'000'000);
  EXPECT_FALSE(outbox->Take().has_value());
}

TEST_F(GeneratorCoreTest, AGatewayThatDoesNotReadIsEndedWhenEightMebibytesWait) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  const std::vector<int32_t> ids(100000, 900);
  int steps = 0;
  while (outbox->Health().ok() && steps < 1000) {
    core_.OnStep(Step(LastHandle(), steps, ids), kStart);
    ++steps;
  }
  EXPECT_EQ(ErrorReason(outbox->Health()), kReasonSlowConsumer);
  EXPECT_GT(steps, 30);
  EXPECT_LT(steps, 60);
  EXPECT_FALSE(outbox->Take().has_value());
}

TEST_F(GeneratorCoreTest, DrainingTellsSessionsAndTakesWhatWasUnderWay) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  core_.Drain(absl::Seconds(30), kStart);
  EXPECT_EQ(outbox->Take()->draining().time_left().seconds(), 30);
  // Sent before the gateway could know.
  ASSERT_TRUE(core_.OnMessage(session, Submit(2), kStart).ok());
  EXPECT_FALSE(outbox->Take().has_value());
  EXPECT_EQ(core_.open_sequences(), 2u);
}

TEST_F(GeneratorCoreTest, ASessionThatBeginsWhileDrainingIsToldToo) {
  core_.Drain(absl::Seconds(30), kStart);
  std::shared_ptr<SessionOutbox> outbox = std::make_shared<SessionOutbox>([] {});
  const absl::Time later = kStart + absl::Seconds(10);
  const uint64_t session = *core_.OpenSession(outbox, later);
  ASSERT_TRUE(core_.OnMessage(session, Hello(), later).ok());
  EXPECT_TRUE(outbox->Take()->has_hello());
  const auto message = outbox->Take();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->draining().time_left().seconds(), 20);
}

TEST_F(GeneratorCoreTest, TheEndOfASessionWaitsForItsLastEvents) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  core_.OnStep(Step(LastHandle(), 0, {5}, FinishReason::kLength), kStart);
  EXPECT_EQ(core_.open_sequences(), 0u);
  core_.EndSessions(absl::UnavailableError("the end"));
  EXPECT_TRUE(outbox->Health().ok());
  const auto message = outbox->Take();
  ASSERT_TRUE(message.has_value());
  EXPECT_TRUE(message->step_events().events(0).has_finish());
  EXPECT_FALSE(outbox->Take().has_value());
  EXPECT_EQ(outbox->Ending().message(), "the end");
}

TEST_F(GeneratorCoreTest, AfterTheEndNothingIsTaken) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  core_.EndSessions(absl::UnavailableError("the end"));
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  const absl::Status refusal =
      FromProtoStatus(outbox->Take()->step_events().events(0).finish().status());
  EXPECT_EQ(refusal.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorReason(refusal), kReasonDraining);
  EXPECT_EQ(core_.open_sequences(), 0u);
}

TEST_F(GeneratorCoreTest, SessionsAreBounded) {
  const auto outbox = std::make_shared<SessionOutbox>([] {});
  for (size_t i = 0; i < GeneratorCore::kMaxSessions; ++i) {
    ASSERT_TRUE(core_.OpenSession(outbox, kStart).ok());
  }
  const absl::Status status = core_.OpenSession(outbox, kStart).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(GeneratorCoreTest, AFullEngineSaysWhyAndWhenToComeBack) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  engine_.submit_error = absl::ResourceExhaustedError("4 sequences wait");
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  const absl::Status refusal =
      FromProtoStatus(outbox->Take()->step_events().events(0).finish().status());
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(refusal), kReasonQueueFull);
  EXPECT_TRUE(refusal.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
}

TEST_F(GeneratorCoreTest, ADeadlineThatCannotBeMetIsNoFullQueue) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  engine_.submit_error = absl::ResourceExhaustedError("the deadline is in 1 s");
  engine_.submit_error.SetPayload(kDeadlineUnreachablePayload, absl::Cord());
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  const google::rpc::Status wire = outbox->Take()->step_events().events(0).finish().status();
  const absl::Status refusal = FromProtoStatus(wire);
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(refusal), "DEADLINE_UNREACHABLE");
  EXPECT_EQ(wire.details_size(), 2) << "the engine's own payload is not for clients";
}

TEST_F(GeneratorCoreTest, AStepBeyondItsBudgetIsUnhealthy) {
  EXPECT_TRUE(core_.Health().ok());
  engine_.stats.step_age = absl::Seconds(3.9);
  EXPECT_TRUE(core_.Health().ok());
  engine_.stats.step_age = absl::Seconds(4.1);  // and nothing may run: the last sequence has ended
  EXPECT_EQ(core_.Health().code(), absl::StatusCode::kUnavailable);
  engine_.stats.expected_step = absl::Seconds(2);  // such steps are normal here
  EXPECT_EQ(core_.step_budget(), absl::Seconds(8));
  EXPECT_TRUE(core_.Health().ok());
  engine_.health = absl::UnavailableError("rank 1 died");
  EXPECT_THAT(core_.Health().message(), HasSubstr("rank 1 died"));
}

TEST_F(GeneratorCoreTest, AnEngineThatFailedGivesItsReasonToEverySequence) {
  std::shared_ptr<SessionOutbox> outbox;
  const uint64_t session = Open(&outbox);
  ASSERT_TRUE(core_.OnMessage(session, Submit(1), kStart).ok());
  StepEvents events = Step(LastHandle(), 2, {}, FinishReason::kError);
  events.sequences[0].error = absl::UnavailableError("rank 1 died");
  core_.OnStep(events, kStart);
  const auto message = outbox->Take();
  const absl::Status status = FromProtoStatus(message->step_events().events(0).finish().status());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("rank 1 died"));
}

}  // namespace
}  // namespace qwenserve
