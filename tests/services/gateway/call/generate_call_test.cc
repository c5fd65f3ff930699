#include "services/gateway/call/generate_call.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"
#include "tests/services/gateway/call/one_model_catalog.h"

namespace qwenserve {
namespace {

class FakeSink : public CallSink {
 public:
  void Wake() override {}
  void Drop() override {}
};

// Keeps the callback for the test.
class FakeText : public TextService {
 public:
  std::function<void()> Prepare(v1::PrepareRequest, const std::string&, absl::Time,
                                PrepareCallback done) override {
    prepared = std::move(done);
    return [] {};
  }
  uint64_t NewKey() override { return 1; }
  void Detokenize(v1::DetokenizeItem item, const std::string&,
                  std::shared_ptr<TextListener>) override {
    asked.push_back(std::move(item));
  }
  void Flush() override {}

  PrepareCallback prepared;
  std::vector<v1::DetokenizeItem> asked;
};

class FakePlacer : public Placer {
 public:
  void Place(PlacementRequest, std::shared_ptr<PlacementListener> listener) override {
    if (before_place) before_place();
    waiting = std::move(listener);
  }
  void Withdraw(const PlacementListener* listener) override {
    if (waiting.get() == listener) waiting = nullptr;
  }

  absl::Status Foresee(const PlacementRequest&) const override { return foreseen; }

  absl::Status foreseen;
  std::function<void()> before_place;
  std::shared_ptr<PlacementListener> waiting;
};

class KeptSpans : public SpanSink {
 public:
  void Add(opentelemetry::proto::trace::v1::Span span) override { names.push_back(span.name()); }
  std::vector<std::string> names;
};

class FakeReplica : public GeneratorReplica {
 public:
  const v1::ServerHello& hello() const override { return hello_; }
  std::optional<uint64_t> Submit(v1::Submit, const PlaceCost&,
                                 std::shared_ptr<SequenceListener>) override {
    return 1;
  }
  void Cancel(uint64_t) override {}
  void AddCredit(uint64_t, uint32_t) override {}
  void Release(const PlaceCost& cost) override {
    released += cost.sequences;
    if (on_release) on_release();
  }

  std::function<void()> on_release;
  uint32_t released = 0;

 private:
  v1::ServerHello hello_;
};

class GenerateCallTest : public testing::Test {
 protected:
  GenerateCallTest()
      : registry_("gateway"),
        metrics_(registry_),
        admission_({.max_bytes = 10000}),
        key_limits_(MonotonicNow, &metrics_) {
    services_.admission = &admission_;
    services_.key_limits = &key_limits_;
    services_.text = &text_;
    services_.placer = &placer_;
    services_.catalog = [catalog = OneModelCatalog(100)] { return catalog; };
    services_.metrics = &metrics_;
    services_.retries = &retries_;
    services_.clock = MonotonicNow;
    call_ = std::make_shared<GenerateCall>(GatewayMetrics::kComplete, absl::InfiniteFuture(),
                                           services_, std::make_shared<FakeSink>());
  }

  // As if a key that may ask once a minute had asked for it.
  std::shared_ptr<GenerateCall> CallOfKey() {
    auto grant = std::make_shared<KeyGrant>();
    grant->sha256 = "key";
    grant->requests_per_minute = 1;
    grant->tokens_per_minute = 50;
    Caller caller;
    caller.grant = std::move(grant);
    auto call = std::make_shared<GenerateCall>(GatewayMetrics::kComplete, absl::InfiniteFuture(),
                                               services_, std::make_shared<FakeSink>());
    GenerateRequest request;
    request.prompt.set_text("x");
    call->Start({std::move(caller), std::move(request), 1});
    return call;
  }
  static absl::Status EndOf(GenerateCall& call) {
    const GenerateCall::Output end = call.Next();
    if (!std::holds_alternative<absl::Status>(end)) return absl::UnknownError("no end");
    return std::get<absl::Status>(end);
  }

  // Up to the prompt's preparation.
  void Start(std::optional<uint32_t> prompt_logprobs = std::nullopt) {
    GenerateRequest request;
    request.prompt_logprobs = prompt_logprobs;
    request.prompt.set_text("x");
    call_->Start({Caller(), std::move(request), 1});
    ASSERT_TRUE(text_.prepared);
  }
  void Prepared(int prompt_tokens = 1) {
    v1::PrepareResponse response;
    for (int i = 0; i < prompt_tokens; ++i) response.add_prompt_ids(7);
    response.set_tokenizer_hash("h");
    std::exchange(text_.prepared, nullptr)(std::move(response));
  }

  Metrics registry_;
  GatewayMetrics metrics_;
  Admission admission_;
  KeyLimits key_limits_;
  RetryBudget retries_;
  FakeText text_;
  FakePlacer placer_;
  CallServices services_;
  std::shared_ptr<GenerateCall> call_;
};

TEST_F(GenerateCallTest, ACallThatEndsOnItsWayIntoTheQueueDoesNotStayThere) {
  Start();
  placer_.before_place = [this] { call_->Abort(); };
  Prepared();
  EXPECT_EQ(placer_.waiting, nullptr);
}

TEST_F(GenerateCallTest, PlacesOfAnEndedCallAreGivenBackWithoutItsLock) {
  Start();
  Prepared();
  ASSERT_NE(placer_.waiting, nullptr);
  const auto listener = std::exchange(placer_.waiting, nullptr);  // chosen, not yet told
  call_->Abort();
  auto replica = std::make_shared<FakeReplica>();
  // A replica with room again serves others at once, and they may ask any call for its state.
  bool asked = false;
  replica->on_release = [&] {
    v1::RequestSummary summary;
    asked = !call_->Summarize(&summary);
  };
  listener->OnPlaced(replica);
  EXPECT_EQ(replica->released, 1u);
  EXPECT_TRUE(asked);
}

TEST_F(GenerateCallTest, WhatCannotGoOnElsewhereStaysWhenTokensComeWhileAPlaceIsSought) {
  Start();
  Prepared();
  std::exchange(placer_.waiting, nullptr)->OnPlaced(std::make_shared<FakeReplica>());
  // Nothing has come yet, so that it could begin anew anywhere.
  call_->OnHandOver(0, 0, LossCause::kDraining);
  ASSERT_NE(placer_.waiting, nullptr);
  v1::SequenceEvent event;
  event.add_token_ids(5);
  call_->OnSequenceEvent(0, event);
  auto other = std::make_shared<FakeReplica>();
  std::exchange(placer_.waiting, nullptr)->OnPlaced(other);
  EXPECT_EQ(other->released, 1u);
  v1::RequestSummary summary;
  EXPECT_TRUE(call_->Summarize(&summary));
  event.set_first_token_index(1);
  event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_EOS);
  call_->OnSequenceEvent(0, event);
  EXPECT_TRUE(call_->Summarize(&summary));
  call_->Abort();
}

TEST_F(GenerateCallTest, TheSpanOfASearchEndsWithIt) {
  KeptSpans kept;
  const Tracer tracer(&kept, 1);
  services_.tracer = &tracer;
  const auto searches = [&] { return std::count(kept.names.begin(), kept.names.end(), "queue"); };
  Start();
  Prepared();
  std::exchange(placer_.waiting, nullptr)->OnPlaced(std::make_shared<FakeReplica>());
  EXPECT_EQ(searches(), 1);
  call_->OnHandOver(0, 0, LossCause::kDraining);
  std::exchange(placer_.waiting, nullptr)->OnNotPlaced(absl::UnavailableError(""));
  EXPECT_EQ(searches(), 2);  // it stays where it is
  call_->OnHandOver(0, 0, LossCause::kDraining);
  v1::SequenceEvent event;
  event.add_token_ids(5);
  call_->OnSequenceEvent(0, event);
  std::exchange(placer_.waiting, nullptr)->OnPlaced(std::make_shared<FakeReplica>());
  EXPECT_EQ(searches(), 3);  // too late
  call_->Abort();
  EXPECT_EQ(searches(), 3);
  call_ = nullptr;
}

TEST_F(GenerateCallTest, LogprobsOfAPromptCountAsMemoryOfTheGateway) {
  auto other = std::make_unique<Admission::Ticket>(*admission_.Enter(1));
  Start(20);
  Prepared(90);
  EXPECT_EQ(placer_.waiting, nullptr);
  const GenerateCall::Output end = call_->Next();
  ASSERT_TRUE(std::holds_alternative<absl::Status>(end));
  EXPECT_EQ(std::get<absl::Status>(end).code(), absl::StatusCode::kResourceExhausted);
  // Alone it may be as large as it likes, and gives everything back.
  call_ = std::make_shared<GenerateCall>(GatewayMetrics::kComplete, absl::InfiniteFuture(),
                                         services_, std::make_shared<FakeSink>());
  other.reset();
  Start(20);
  Prepared(90);
  EXPECT_NE(placer_.waiting, nullptr);
  EXPECT_FALSE(admission_.Enter(1).ok());
  call_->Abort();
  placer_.waiting = nullptr;
  call_ = nullptr;
  EXPECT_TRUE(admission_.Enter(9999).ok());
}

TEST_F(GenerateCallTest, ARequestThatFindsNoRoomCostsItsKeyNothing) {
  const absl::Status full =
      WithReason(absl::ResourceExhaustedError("the queue is full"), kReasonQueueFull);
  for (int i = 0; i < 3; ++i) {
    // Refused in the queue, after its prompt was counted.
    auto call = CallOfKey();
    ASSERT_TRUE(text_.prepared);
    Prepared(40);
    ASSERT_NE(placer_.waiting, nullptr);
    std::exchange(placer_.waiting, nullptr)->OnNotPlaced(full);
    EXPECT_EQ(ErrorReason(EndOf(*call)), kReasonQueueFull);
    // Refused at the door, by the number of bytes and by what the queue foresees.
    call = nullptr;
    {
      const Admission::Ticket others = *admission_.Enter(10000);
      call = CallOfKey();
      EXPECT_EQ(ErrorReason(EndOf(*call)), kReasonQueueFull);
    }
    placer_.foreseen = full;
    call = CallOfKey();
    EXPECT_EQ(ErrorReason(EndOf(*call)), kReasonQueueFull);
    placer_.foreseen = absl::OkStatus();
  }
  // What a replica has taken counts, whatever becomes of it.
  auto call = CallOfKey();
  ASSERT_TRUE(text_.prepared);
  Prepared(40);
  std::exchange(placer_.waiting, nullptr)->OnPlaced(std::make_shared<FakeReplica>());
  call->Abort();
  EXPECT_EQ(EndOf(*call).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ErrorReason(EndOf(*CallOfKey())), kReasonQuotaExceeded);
}

TEST_F(GenerateCallTest, AQuotaThatIsUsedUpGivesNothingBack) {
  auto call = CallOfKey();
  ASSERT_TRUE(text_.prepared);
  Prepared(40);
  std::exchange(placer_.waiting, nullptr)->OnPlaced(std::make_shared<FakeReplica>());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ErrorReason(EndOf(*CallOfKey())), kReasonQuotaExceeded);
  }
  call->Abort();
}

TEST_F(GenerateCallTest, AClientThatDoesNotReadIsNotOneThatLeft) {
  Start();
  Prepared();
  std::exchange(placer_.waiting, nullptr)->OnPlaced(std::make_shared<FakeReplica>());
  call_->AbortSlowClient();
  call_->Abort();  // as the connection's end may follow
  const absl::Status end = EndOf(*call_);
  EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(end), kReasonSlowConsumer);
  EXPECT_EQ(metrics_.sheds[GatewayMetrics::kShedSlowConsumer]->Value(), 1);
}

class WholeAnswerTest : public GenerateCallTest {
 protected:
  static constexpr int64_t kTokenBytes = 64 + 3 * 128;  // id and text; it and two alternatives

  void Begin(uint32_t max_tokens) {
    services_.settings.credit_window = 5;
    call_ = std::make_shared<GenerateCall>(GatewayMetrics::kComplete, absl::InfiniteFuture(),
                                           services_, std::make_shared<FakeSink>());
    GenerateRequest request;
    request.prompt.set_text("x");
    request.whole = true;
    request.options.set_top_logprobs(2);
    request.options.set_max_tokens(max_tokens);
    call_->Start({Caller(), std::move(request), 1});
    ASSERT_TRUE(text_.prepared);
    Prepared();
  }

  // One token of the answer and its text, which the transport takes.
  void Token(uint32_t index) {
    v1::SequenceEvent event;
    event.set_first_token_index(index);
    event.add_token_ids(5);
    event.add_logprobs();
    call_->OnSequenceEvent(0, event);
    ASSERT_EQ(text_.asked.size(), index + 1);
    const v1::DetokenizeItem& item = text_.asked.back();
    v1::DetokenizeResult result;
    result.set_key(item.key());
    result.set_seq(item.seq());
    result.set_text("a");
    result.add_text_lengths(1);
    for (int i = 0; i < item.lookup_ids_size(); ++i) result.add_lookup_tokens("a");
    call_->OnText(std::move(result));
    int tokens = 0;
    for (auto output = call_->Next(); output.index() != 0; output = call_->Next()) {
      ASSERT_FALSE(std::holds_alternative<absl::Status>(output)) << std::get<absl::Status>(output);
      if (auto* delta = std::get_if<AnswerDelta>(&output)) tokens += delta->token_ids.size();
      call_->Taken();
    }
    ASSERT_EQ(tokens, 1);
  }
};

TEST_F(WholeAnswerTest, ItsFirstLogprobsAreCountedAtTheDoor) {
  const Admission::Ticket other = *admission_.Enter(10000 - 4 * kTokenBytes);
  Begin(50);  // five of them may come at once
  EXPECT_EQ(placer_.waiting, nullptr);
  const GenerateCall::Output end = call_->Next();
  ASSERT_TRUE(std::holds_alternative<absl::Status>(end));
  EXPECT_EQ(std::get<absl::Status>(end).code(), absl::StatusCode::kResourceExhausted);
  Begin(3);
  EXPECT_NE(placer_.waiting, nullptr);
  call_->Abort();
}

TEST_F(WholeAnswerTest, EachTokenIsCountedOnce) {
  Begin(8);
  const int64_t before = admission_.bytes();
  EXPECT_GE(before, 5 * kTokenBytes);
  std::exchange(placer_.waiting, nullptr)->OnPlaced(std::make_shared<FakeReplica>());
  constexpr int64_t kIds = 16 * sizeof(uint32_t);  // kept besides, in a vector that grows
  for (uint32_t i = 0; i < 5; ++i) Token(i);
  EXPECT_LE(admission_.bytes(), before + kIds);
  Token(5);
  Token(6);
  EXPECT_GE(admission_.bytes(), before + 2 * kTokenBytes);
  EXPECT_LE(admission_.bytes(), before + 2 * kTokenBytes + kIds);
  call_->Abort();
}

}  // namespace
}  // namespace qwenserve
