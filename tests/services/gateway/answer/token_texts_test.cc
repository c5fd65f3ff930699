// Text from what is known of single tokens is the text that a worker would have made.
#include "services/gateway/answer/token_texts.h"

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/tokenizer/stream_decoder.h"
#include "engine/tokenizer/tokenizer.h"
#include "gtest/gtest.h"
#include "services/gateway/answer/choice.h"

namespace qwenserve {
namespace {

const Tokenizer& DemoTokenizer() {
  static const Tokenizer* const tokenizer = Tokenizer::Load("models/demo").value().release();
  return *tokenizer;
}

v1::DetokenizeResult Answer(const v1::DetokenizeItem& item) {
  DecodeItem decode;
  decode.ids.assign(item.ids().begin(), item.ids().end());
  decode.pending = item.pending();
  decode.flush = item.flush();
  const DecodeResult decoded = *DecodeStep(DemoTokenizer(), decode);
  v1::DetokenizeResult result;
  result.set_seq(item.seq());
  result.set_text(decoded.text);
  result.set_pending(decoded.pending);
  for (size_t length : decoded.lengths) result.add_text_lengths(static_cast<uint32_t>(length));
  return result;
}

struct Told {
  std::string text;
  std::vector<uint32_t> ids;
  uint32_t first = 0;
  int asked = 0;
};

// An answer of these ids in steps of at most `step` ids; a worker answers what is not known.
Told Stream(const std::vector<uint32_t>& ids, size_t step, std::shared_ptr<TokenTexts> texts,
            std::vector<std::string> stop = {}) {
  Choice::Settings settings;
  settings.credit_window = 4096;
  settings.known = texts;
  settings.stop = std::move(stop);
  Choice choice(settings);
  Told told;
  for (size_t i = 0; i < ids.size(); i += step) {
    v1::SequenceEvent event;
    event.set_first_token_index(static_cast<uint32_t>(i));
    for (size_t j = i; j < std::min(i + step, ids.size()); ++j) event.add_token_ids(ids[j]);
    if (i + step >= ids.size()) event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_EOS);
    EXPECT_TRUE(choice.OnEvent(event).ok());
    for (;;) {
      choice.DecodeKnown();
      const auto item = choice.NextItem();
      if (!item.has_value()) break;
      ++told.asked;
      const v1::DetokenizeResult result = Answer(*item);
      if (texts != nullptr) texts->Learn(*item, result);
      EXPECT_TRUE(choice.OnText(result).ok());
    }
    const AnswerDelta delta = choice.TakeDelta();
    EXPECT_EQ(delta.first_token_index, told.ids.size());
    told.text += delta.text;
    told.ids.insert(told.ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  }
  EXPECT_TRUE(choice.finished());
  return told;
}

// Half ordinary tokens, and many of those that are bytes of characters, control tokens or none.
std::vector<uint32_t> DrawIds(std::mt19937_64& random, size_t count) {
  std::vector<uint32_t> ids(count);
  const uint32_t size = 4200;  // some above the vocabulary
  for (uint32_t& id : ids) {
    id = static_cast<uint32_t>(random() % (random() % 2 == 0 ? 256 : size));
  }
  return ids;
}

TEST(TokenTextsTest, TextIsTheWorkersWhateverIsKnown) {
  std::mt19937_64 random(7);
  const auto texts = std::make_shared<TokenTexts>();
  int asked = 0, asked_without = 0;
  for (int round = 0; round < 300; ++round) {
    const std::vector<uint32_t> ids = DrawIds(random, 200);
    const size_t step = round % 3 == 0 ? 1 : 1 + random() % 5;
    v1::DetokenizeItem whole;
    whole.mutable_ids()->Add(ids.begin(), ids.end());
    whole.set_flush(true);
    const Told told = Stream(ids, step, texts);
    EXPECT_EQ(told.text, Answer(whole).text()) << round;
    EXPECT_EQ(told.ids, ids) << round;
    asked += told.asked;
    asked_without += Stream(ids, step, nullptr).asked;
  }
  EXPECT_LT(asked, asked_without);
}

TEST(TokenTextsTest, OrdinaryTextNeedsNoWorkerTheSecondTime) {
  const std::vector<int32_t> encoded = *DemoTokenizer().Encode("the weather in spring is mild");
  const std::vector<uint32_t> ids(encoded.begin(), encoded.end());
  const auto texts = std::make_shared<TokenTexts>();
  EXPECT_GT(Stream(ids, 1, texts).asked, 0);
  const Told again = Stream(ids, 1, texts);
  EXPECT_EQ(again.asked, 0);
  EXPECT_EQ(again.text, "the weather in spring is mild");
}

TEST(TokenTextsTest, StopStringsEndTheAnswerAtTheSameToken) {
  const std::vector<int32_t> encoded = *DemoTokenizer().Encode("one two three four five");
  const std::vector<uint32_t> ids(encoded.begin(), encoded.end());
  const auto texts = std::make_shared<TokenTexts>();
  const Told first = Stream(ids, 1, texts, {"three f"});
  for (size_t step : {1, 2, 100}) {
    const Told again = Stream(ids, step, texts, {"three f"});
    EXPECT_EQ(again.text, "one two ");
    EXPECT_EQ(again.ids, first.ids) << step;
  }
}

v1::DetokenizeItem Item(uint32_t id) {
  v1::DetokenizeItem item;
  item.add_ids(id);
  return item;
}

v1::DetokenizeResult Result(const std::string& text) {
  v1::DetokenizeResult result;
  result.set_text(text);
  result.add_text_lengths(static_cast<uint32_t>(text.size()));
  return result;
}

TEST(TokenTextsTest, KeepsOnlyWhatStandsAlone) {
  TokenTexts texts;
  v1::DetokenizeItem item = Item(1);
  item.set_pending("\xe4");
  texts.Learn(item, Result("x"));
  item = Item(2);
  item.add_ids(3);
  texts.Learn(item, Result("x"));
  item = Item(4);
  item.set_flush(true);
  texts.Learn(item, Result("x\xEF\xBF\xBD"));
  v1::DetokenizeResult pending = Result("");
  pending.set_pending("\xe4");
  texts.Learn(Item(5), pending);
  v1::DetokenizeResult failed = Result("");
  failed.mutable_error()->set_code(3);
  texts.Learn(Item(6), failed);
  texts.Learn(Item(7), Result(std::string(TokenTexts::kMaxTextBytes + 1, 'x')));
  texts.Learn(Item(TokenTexts::kMaxIds), Result("x"));
  item = Item(8);
  item.set_keep_special_tokens(true);
  texts.Learn(item, Result("x"));
  v1::DetokenizeResult odd = Result("xy");
  odd.set_text_lengths(0, 1);
  texts.Learn(Item(9), odd);
  for (uint32_t id = 0; id < 12; ++id) EXPECT_EQ(texts.Find(id), nullptr) << id;
  EXPECT_EQ(texts.Find(TokenTexts::kMaxIds), nullptr);
  texts.Learn(Item(10), Result(""));
  item = Item(11);
  item.set_flush(true);
  texts.Learn(item, Result("x"));
  ASSERT_NE(texts.Find(10), nullptr);
  EXPECT_EQ(*texts.Find(10), "");
  EXPECT_EQ(*texts.Find(11), "x");
}

}  // namespace
}  // namespace qwenserve
