// Log-probabilities on their way from a generator's events to a client's deltas.
#include "services/gateway/answer/choice.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/services/gateway/fake_tokenizer.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

Choice::Settings Settings() {
  Choice::Settings settings;
  settings.credit_window = 64;
  settings.logprobs = true;
  return settings;
}

v1::TokenLogprobs Logprobs(float logprob, const std::string& alternatives = "") {
  v1::TokenLogprobs logprobs;
  logprobs.set_logprob(logprob);
  for (char c : alternatives) {
    logprobs.add_top_ids(static_cast<uint8_t>(c));
    logprobs.add_top_logprobs(logprob - 1);
  }
  return logprobs;
}

v1::SequenceEvent Tokens(uint32_t index, const std::string& text,
                         const std::string& alternatives = "") {
  v1::SequenceEvent event;
  event.set_first_token_index(index);
  for (char c : text) {
    event.add_token_ids(static_cast<uint8_t>(c));
    *event.add_logprobs() =
        Logprobs(-0.5f * static_cast<float>(index + event.token_ids_size()), alternatives);
  }
  return event;
}

v1::SequenceEvent Prompt(uint32_t first, const std::string& text) {
  v1::SequenceEvent event;
  event.set_first_prompt_index(first);
  for (char c : text) {
    v1::TokenLogprobs* token = event.add_prompt_logprobs();
    *token = Logprobs(-3, "xy");
    token->set_token_id(static_cast<uint8_t>(c));
  }
  return event;
}

// Everything that the tokenizer can do now.
void Decode(Choice& choice) {
  while (auto item = choice.NextItem()) ASSERT_TRUE(choice.OnText(FakeDecode(*item)).ok());
}

std::string Bytes(const std::vector<v1::TokenLogprob>& logprobs) {
  std::string bytes;
  for (const v1::TokenLogprob& token : logprobs) bytes += token.token();
  return bytes;
}

TEST(ChoiceTest, EveryTokenHasItsLogprobAndBytes) {
  Choice choice(Settings());
  ASSERT_TRUE(choice.OnEvent(Tokens(0, "ab", "bz")).ok());
  Decode(choice);
  const AnswerDelta delta = choice.TakeDelta();
  ASSERT_EQ(delta.logprobs.size(), 2u);
  EXPECT_EQ(delta.token_ids.size(), 2u);
  EXPECT_EQ(delta.logprobs[1].token_id(), uint32_t{'b'});
  EXPECT_EQ(delta.logprobs[1].token(), "b");
  EXPECT_EQ(delta.logprobs[1].logprob(), -1.0f);
  ASSERT_EQ(delta.logprobs[1].top_size(), 2);
  EXPECT_EQ(delta.logprobs[1].top(1).token(), "z");
  EXPECT_EQ(delta.logprobs[1].top(1).logprob(), -2.0f);
}

TEST(ChoiceTest, BytesOfHalfACharacterAreTold) {
  Choice choice(Settings());
  ASSERT_TRUE(choice.OnEvent(Tokens(0, "\xC3")).ok());
  Decode(choice);
  AnswerDelta delta = choice.TakeDelta();
  EXPECT_EQ(delta.text, "");
  EXPECT_EQ(Bytes(delta.logprobs), "\xC3");
  ASSERT_TRUE(choice.OnEvent(Tokens(1, "\xA9")).ok());
  Decode(choice);
  delta = choice.TakeDelta();
  EXPECT_EQ(delta.text, "\xC3\xA9");
  EXPECT_EQ(Bytes(delta.logprobs), "\xA9");
}

TEST(ChoiceTest, LogprobsEndWithTheTokenThatCompletesAStopString) {
  Choice::Settings settings = Settings();
  settings.stop = {"cd"};
  Choice choice(settings);
  ASSERT_TRUE(choice.OnEvent(Tokens(0, "abcdef")).ok());
  Decode(choice);
  EXPECT_TRUE(choice.finished());
  const AnswerDelta delta = choice.TakeDelta();
  EXPECT_EQ(delta.text, "ab");
  EXPECT_EQ(Bytes(delta.logprobs), "abcd");
  EXPECT_EQ(delta.token_ids.size(), 4u);
}

TEST(ChoiceTest, APromptsLogprobsComeFirstAndInPieces) {
  Choice choice(Settings());
  const std::string prompt = std::string(5000, 'p') + "q";
  // Every token and its alternatives are looked up once per item.
  v1::SequenceEvent event = Prompt(1, prompt);
  for (int i = 0; i < 5000; ++i) event.mutable_prompt_logprobs(i)->set_token_id(1000 + i);
  ASSERT_TRUE(choice.OnEvent(event).ok());
  ASSERT_TRUE(choice.OnEvent(Tokens(0, "a")).ok());
  v1::SequenceEvent end;
  end.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_LENGTH);
  ASSERT_TRUE(choice.OnEvent(end).ok());
  const auto first = choice.NextItem();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->ids_size(), 0);
  EXPECT_FALSE(first->flush());
  EXPECT_LT(first->lookup_ids_size(), 4200);
  ASSERT_TRUE(choice.OnText(FakeDecode(*first)).ok());
  EXPECT_FALSE(choice.finished());
  EXPECT_TRUE(choice.HasDelta());
  AnswerDelta delta = choice.TakeDelta();
  const size_t taken = delta.prompt_logprobs.size();
  EXPECT_EQ(delta.first_prompt_index, 1u);
  EXPECT_LT(taken, prompt.size());
  EXPECT_TRUE(delta.token_ids.empty());
  Decode(choice);
  delta = choice.TakeDelta();
  EXPECT_EQ(delta.first_prompt_index, 1 + taken);
  EXPECT_EQ(taken + delta.prompt_logprobs.size(), prompt.size());
  EXPECT_EQ(delta.prompt_logprobs.back().token(), "q");
  EXPECT_EQ(delta.prompt_logprobs.back().top(1).token(), "y");
  EXPECT_EQ(delta.token_ids.size(), 1u);
  EXPECT_TRUE(choice.finished());
}

TEST(ChoiceTest, PromptLogprobsThatPiledUpLeaveInMessagesOfBoundedSize) {
  Choice choice(Settings());
  ASSERT_TRUE(choice.OnEvent(Prompt(1, std::string(10000, 'p'))).ok());
  ASSERT_TRUE(choice.OnEvent(Tokens(0, "a")).ok());
  Decode(choice);
  size_t taken = 0;
  std::string text;
  int deltas = 0;
  while (choice.HasDelta()) {
    const AnswerDelta delta = choice.TakeDelta();
    ++deltas;
    EXPECT_EQ(delta.first_prompt_index, 1 + taken);
    EXPECT_EQ(delta.first_token_index, 0u);
    EXPECT_LE(delta.prompt_logprobs.size(), 4096u);
    taken += delta.prompt_logprobs.size();
    text += delta.text;
    // The answer comes when the prompt is complete.
    EXPECT_EQ(delta.token_ids.size(), taken == 10000 ? 1u : 0u);
  }
  EXPECT_EQ(taken, 10000u);
  EXPECT_EQ(deltas, 3);
  EXPECT_EQ(text, "a");
}

TEST(ChoiceTest, AGeneratorThatBreaksTheProtocolIsTold) {
  const auto error = [](const v1::SequenceEvent& event) {
    Choice choice(Settings());
    return std::string(choice.OnEvent(event).message());
  };
  v1::SequenceEvent event = Tokens(0, "ab");
  event.mutable_logprobs()->RemoveLast();
  EXPECT_THAT(error(event), HasSubstr("1 log-probabilities for 2 tokens"));
  event = Tokens(0, "a", "b");
  event.mutable_logprobs(0)->clear_top_logprobs();
  EXPECT_THAT(error(event), HasSubstr("alternatives"));
  EXPECT_THAT(error(Prompt(2, "a")), HasSubstr("prompt token 2 where 1 follows"));
  event = Prompt(1, "a");
  event.mutable_prompt_logprobs(0)->add_top_ids(7);
  EXPECT_THAT(error(event), HasSubstr("alternatives"));

  Choice choice(Settings());
  ASSERT_TRUE(choice.OnEvent(Tokens(0, "ab")).ok());
  v1::DetokenizeResult result = FakeDecode(*choice.NextItem());
  result.mutable_lookup_tokens()->RemoveLast();
  EXPECT_THAT(std::string(choice.OnText(result).message()), HasSubstr("looked up"));
}

}  // namespace
}  // namespace qwenserve
