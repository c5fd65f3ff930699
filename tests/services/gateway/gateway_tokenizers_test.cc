// Tokenizers that are lost, freeze or stop.

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

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
  EXPECT_TRUE(stream.End(&text).ok());
  EXPECT_EQ(text, "\xF0\x9F\x98\x80 two three");
}

// A gateway with two tokenizers and one generator.
class TwoTokenizersTest : public testing::Test {
 protected:
  void Start(const TokenizerSettings& settings = {}) {
    GatewayOptions options =
        OptionsFor({first_.address(), second_.address()}, {generator_.address()});
    options.tokenizer = settings;
    harness_ = std::make_unique<GatewayHarness>(options);
    ASSERT_TRUE(Eventually(
        [&] { return harness_->Scrape().find("{role=\"tokenizer\"} 2") != std::string::npos; }));
    ASSERT_TRUE(harness_->WaitServed());
  }
  v1::Inference::Stub& stub() { return harness_->stub(); }
  // The one that an idle gateway gives every prompt to. Submits one sequence.
  FakeTokenizer& FindPreferred() {
    ChatStream probe(stub(), UserSays("hello"));
    generator_.WaitSubmit(0);
    return first_.num_prepared() > 0 ? first_ : second_;
  }

  // A gateway with this many calls, of which one is out at each tokenizer, unanswered, and the
  // others wait.
  void StartWithPromptsWaiting(int calls, std::vector<std::unique_ptr<ChatStream>>* streams) {
    TokenizerSettings settings;
    settings.max_prepares_per_worker = 1;
    ASSERT_NO_FATAL_FAILURE(Start(settings));
    first_.HoldPrepare(true);
    second_.HoldPrepare(true);
    for (int i = 0; i < calls; ++i) {
      streams->push_back(std::make_unique<ChatStream>(stub(), UserSays("hello")));
    }
    ASSERT_TRUE(Eventually([&] { return first_.num_prepared() + second_.num_prepared() == 2; }));
  }

  FakeTokenizer first_;
  FakeTokenizer second_;
  FakeGenerator generator_;
  std::unique_ptr<GatewayHarness> harness_;
};

TEST_F(TwoTokenizersTest, AnotherTokenizerTakesOver) {
  Start();
  first_.HoldAnswers(true);
  second_.HoldAnswers(true);
  std::vector<std::unique_ptr<ChatStream>> streams;
  std::vector<uint64_t> sequences;
  for (size_t i = 0; i < 6; ++i) {
    streams.push_back(std::make_unique<ChatStream>(stub(), UserSays("hello")));
    sequences.push_back(generator_.WaitSubmit(i).sequence());
    generator_.SendTokens(sequences.back(), "before ");
  }
  ASSERT_TRUE(Eventually([&] { return first_.num_items() > 0 && second_.num_items() > 0; }));
  // Items are out at both; one of them dies without an answer.
  first_.Kill();
  second_.HoldAnswers(false);
  for (size_t i = 0; i < 6; ++i) {
    generator_.SendTokens(sequences[i], "after");
    generator_.SendFinish(sequences[i], v1::SEQUENCE_FINISH_REASON_EOS);
    std::string text;
    EXPECT_TRUE(streams[i]->End(&text).ok());
    EXPECT_EQ(text, "before after");
  }
  // And prompts go to the other one.
  ChatStream next(stub(), UserSays("hello"));
  generator_.WaitSubmit(6);
}

TEST_F(TwoTokenizersTest, StalledTokenizerIsGivenUp) {
  TokenizerSettings settings;
  settings.item_timeout = absl::Seconds(1);
  settings.max_item_losses = 1000;
  Start(settings);
  first_.HoldAnswers(true);
  for (size_t i = 0; i < 2; ++i) {  // neighbouring keys go to different workers
    ChatStream stream(stub(), UserSays("hello"));
    const uint64_t sequence = generator_.WaitSubmit(i).sequence();
    generator_.SendTokens(sequence, "text");
    generator_.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
    std::string text;
    EXPECT_TRUE(stream.End(&text).ok());
    EXPECT_EQ(text, "text");
  }
}

TEST_F(TwoTokenizersTest, PromptsOfAFrozenTokenizerGoElsewhere) {
  TokenizerSettings settings;
  settings.describe_interval = absl::Milliseconds(50);
  settings.describe_timeout = absl::Seconds(1);
  Start(settings);
  FakeTokenizer& preferred = FindPreferred();
  preferred.Freeze();
  ChatStream stream(stub(), UserSays("hello"));
  generator_.WaitSubmit(1);
  EXPECT_EQ(preferred.num_prepared(), 2);
}

TEST_F(TwoTokenizersTest, PromptsThatAStoppingTokenizerCancelsGoElsewhere) {
  Start();
  FakeTokenizer& preferred = FindPreferred();
  // As a server does with calls that come while it shuts down.
  preferred.FailPrepare(grpc::Status(grpc::StatusCode::CANCELLED, "Cancelled"));
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_.WaitSubmit(1).sequence();
  generator_.SendTokens(sequence, "text");
  generator_.SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  std::string text;
  EXPECT_TRUE(stream.End(&text).ok());
  EXPECT_EQ(text, "text");
  EXPECT_EQ(preferred.num_prepared(), 2);
}

std::set<std::string> Texts(const FakeTokenizer& tokenizer) {
  std::set<std::string> texts;
  for (const v1::PrepareRequest& request : tokenizer.prepared()) {
    for (const v1::ChatMessage& message : request.chat().messages())
      texts.insert(message.content());
  }
  return texts;
}

TEST_F(TwoTokenizersTest, PromptsWaitForAWorkerWithRoom) {
  TokenizerSettings settings;
  settings.max_prepares_per_worker = 2;
  Start(settings);
  first_.HoldPrepare(true);
  second_.HoldPrepare(true);
  std::vector<std::unique_ptr<ChatStream>> streams;
  for (int i = 0; i < 4; ++i) {
    streams.push_back(std::make_unique<ChatStream>(stub(), UserSays("out")));
  }
  ASSERT_TRUE(Eventually([&] { return first_.num_prepared() + second_.num_prepared() == 4; }));
  EXPECT_EQ(first_.num_prepared(), 2);
  // One ends while it waits, with its client's deadline; the others go on when there is room.
  ChatStream late(stub(), UserSays("late"), std::chrono::milliseconds(500));
  for (int i = 0; i < 3; ++i) {
    streams.push_back(std::make_unique<ChatStream>(stub(), UserSays("waited")));
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.End()));
  EXPECT_EQ(Texts(first_), std::set<std::string>({"out"}));
  EXPECT_EQ(Texts(second_), std::set<std::string>({"out"}));
  EXPECT_TRUE(Eventually([&] {
    return harness_->Scrape().find("qwenserve_gateway_requests_in_flight 7\n") != std::string::npos;
  }));
  first_.HoldPrepare(false);
  second_.HoldPrepare(false);
  for (size_t i = 0; i < 7; ++i) {
    generator_.SendFinish(generator_.WaitSubmit(i).sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  }
  for (const auto& stream : streams) EXPECT_TRUE(stream->End().ok());
  std::set<std::string> texts = Texts(first_);
  texts.merge(Texts(second_));
  EXPECT_EQ(texts, (std::set<std::string>{"out", "waited"}));
}

TEST_F(TwoTokenizersTest, WaitingPromptsOfALostTokenizerGoElsewhere) {
  std::vector<std::unique_ptr<ChatStream>> streams;
  ASSERT_NO_FATAL_FAILURE(StartWithPromptsWaiting(4, &streams));
  // The prompt that it had waits behind the others now, and is not given to it again.
  first_.Kill();
  second_.HoldPrepare(false);
  for (size_t i = 0; i < 4; ++i) {
    generator_.SendFinish(generator_.WaitSubmit(i).sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  }
  for (const auto& stream : streams) EXPECT_TRUE(stream->End().ok());
  EXPECT_EQ(second_.num_prepared(), 4);
}

TEST_F(TwoTokenizersTest, WaitingPromptsEndWhenNoTokenizerIsLeft) {
  std::vector<std::unique_ptr<ChatStream>> streams;
  ASSERT_NO_FATAL_FAILURE(StartWithPromptsWaiting(4, &streams));
  first_.Kill();
  second_.Kill();
  for (const auto& stream : streams) {
    const absl::Status status = stream->End();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_EQ(ErrorReason(status), kReasonWorkerLost);
  }
}

TEST_F(TwoTokenizersTest, WaitingPromptsEndWithTheGateway) {
  std::vector<std::unique_ptr<ChatStream>> streams;
  ASSERT_NO_FATAL_FAILURE(StartWithPromptsWaiting(3, &streams));
  harness_.reset();
  for (const auto& stream : streams) EXPECT_FALSE(stream->End().ok());
}

TEST_F(GatewayTest, NoTokenizerLeftEndsTheAnswer) {
  Start({}, {}, [](GatewayOptions& options) {
    options.tokenizer.no_worker_grace = absl::Milliseconds(200);
  });
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  tokenizer_->Kill();
  generator_->SendTokens(sequence, "text");
  const absl::Status status = stream.End();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonWorkerLost);
  EXPECT_TRUE(generator_->WaitCancelled(sequence));
}

// As those of two sizes of a family.
TEST(TwoModelsTest, WithOneVocabularyStillHaveTokenizersOfTheirOwn) {
  const std::vector<std::string> models = {"small", "large"};
  std::vector<std::unique_ptr<FakeTokenizer>> tokenizers;
  std::vector<std::unique_ptr<FakeGenerator>> generators;
  std::vector<std::string> tokenizer_addresses, generator_addresses;
  for (const std::string& model : models) {
    FakeTokenizer::Options tokenizer;
    tokenizer.model = model;
    FakeGenerator::Options generator;
    generator.hello.set_model(model);
    tokenizers.push_back(std::make_unique<FakeTokenizer>(tokenizer));
    generators.push_back(std::make_unique<FakeGenerator>(generator));
    tokenizer_addresses.push_back(tokenizers.back()->address());
    generator_addresses.push_back(generators.back()->address());
  }
  GatewayHarness harness(OptionsFor(tokenizer_addresses, generator_addresses));
  for (size_t i = 0; i < models.size(); ++i) {
    ASSERT_TRUE(Eventually([&] { return harness.gateway().catalog()->Resolve(models[i]).ok(); }));
  }
  for (size_t i = 0; i < models.size(); ++i) {
    v1::ChatRequest request = UserSays("hello");
    request.set_model(models[i]);
    for (size_t n = 0; n < 4; ++n) {
      ChatStream stream(harness.stub(), request);
      generators[i]->SendFinish(generators[i]->WaitSubmit(n).sequence(),
                                v1::SEQUENCE_FINISH_REASON_EOS);
      EXPECT_TRUE(stream.End().ok());
    }
    EXPECT_EQ(tokenizers[i]->num_prepared(), 4);
  }
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
  const absl::Status status = stream.End();
  stop = true;
  breaker.join();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonSuspectedPoison);
}

}  // namespace
}  // namespace qwenserve
