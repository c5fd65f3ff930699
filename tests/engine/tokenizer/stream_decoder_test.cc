#include "engine/tokenizer/stream_decoder.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tokenizer/tiny_model.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kReplacement[] = "\uFFFD";

// The id of each byte, by the tiny vocabulary.
class StreamDecoderTest : public testing::Test {
 protected:
  void SetUp() override {
    tokenizer_ = LoadTokenizer(TinyTokenizerJson());
    for (int32_t id = 0; id < 256; ++id) {
      byte_ids_[static_cast<unsigned char>(tokenizer_->TokenBytes(id)[0])] = id;
    }
  }

  std::vector<int32_t> Ids(const std::string& bytes) const {
    std::vector<int32_t> ids;
    for (const char byte : bytes) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
    return ids;
  }

  DecodeResult Step(std::vector<int32_t> ids, std::string pending, bool flush) const {
    const auto result = DecodeStep(
        *tokenizer_, {.ids = std::move(ids), .pending = std::move(pending), .flush = flush});
    EXPECT_TRUE(result.ok()) << result.status();
    return *result;
  }

  std::string Whole(const std::string& bytes) const { return Step(Ids(bytes), "", true).text; }

  std::unique_ptr<Tokenizer> tokenizer_;
  int32_t byte_ids_[256] = {};
};

TEST_F(StreamDecoderTest, HoldsAnUnfinishedCharacterBack) {
  const DecodeResult first = Step(Ids("a\xF0\x9F\x98"), "", false);
  EXPECT_EQ(first.text, "a");
  EXPECT_EQ(first.pending, "\xF0\x9F\x98");
  EXPECT_THAT(first.lengths, ElementsAre(1, 1, 1, 1));
  const DecodeResult second = Step(Ids("\x80"
                                       "b"),
                                   first.pending, false);
  EXPECT_EQ(second.text, "\U0001F600b");
  EXPECT_EQ(second.pending, "");
  EXPECT_THAT(second.lengths, ElementsAre(4, 5));
}

TEST_F(StreamDecoderTest, AFlushReplacesWhatIsUnfinished) {
  const DecodeResult with_ids = Step(Ids("x\xE4\xBD"), "", true);
  EXPECT_EQ(with_ids.text, std::string("x") + kReplacement);
  EXPECT_EQ(with_ids.pending, "");
  EXPECT_THAT(with_ids.lengths, ElementsAre(1, 1, 4));
  EXPECT_EQ(Step({}, "\xE4", true).text, kReplacement);
  EXPECT_EQ(Step({}, "", true).text, "");
}

// Expectations are those of bytes.decode("utf-8", errors="replace").
TEST_F(StreamDecoderTest, WrongBytesAreReplacedAsInPython) {
  const std::string r = kReplacement;
  EXPECT_EQ(Whole("\xF0\x9F\x41"), r + "A");
  EXPECT_EQ(Whole("\xFF\xFE"), r + r);
  EXPECT_EQ(Whole("\xC0\x80"), r + r);
  EXPECT_EQ(Whole("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(Whole("\xE0\x80\x80"), r + r + r);
  EXPECT_EQ(Whole("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(Whole("\xE4\xBD\xE4\xBD\xA0"), r + "你");
  EXPECT_EQ(Whole("\x80z\xC3"), r + "z" + r);
}

TEST_F(StreamDecoderTest, AnySplitGivesTheWholeText) {
  std::mt19937 random(3);
  const std::string parts[] = {"a",    "\u00e9", "你",       "\U0001F600", "\xF0\x9F",
                               "\xFF", "\xE4",   "\xED\xA0", "\n"};
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (size_t i = random() % 12; i > 0; --i) bytes += parts[random() % std::size(parts)];
    const std::vector<int32_t> ids = Ids(bytes);
    std::string text, pending;
    for (size_t begin = 0; begin < ids.size();) {
      const size_t end = begin + 1 + random() % (ids.size() - begin);
      const DecodeResult result = Step({ids.begin() + begin, ids.begin() + end}, pending, false);
      ASSERT_LE(result.pending.size(), 3u);
      text += result.text;
      pending = result.pending;
      begin = end;
    }
    text += Step({}, pending, true).text;
    ASSERT_EQ(text, Whole(bytes)) << testing::PrintToString(bytes);
  }
}

TEST_F(StreamDecoderTest, DropsControlTokensAndKeepsOtherAddedOnes) {
  std::vector<int32_t> ids = Ids("\xE4\xBD");
  for (const int32_t id : {271, byte_ids_[0xA0], 273, 272}) ids.push_back(id);
  EXPECT_EQ(Step(ids, "", true).text, "你<tool_call>");
  const auto kept = DecodeStep(
      *tokenizer_, {.ids = {271, 272}, .pending = "", .flush = true, .keep_special = true});
  ASSERT_TRUE(kept.ok());
  EXPECT_EQ(kept->text, "<|im_start|><|im_end|>");
}

TEST_F(StreamDecoderTest, UnknownIdsAddNothing) {
  const DecodeResult result = Step({-1, 300, byte_ids_['a'], 1 << 30}, "", true);
  EXPECT_EQ(result.text, "a");
  EXPECT_THAT(result.lengths, ElementsAre(0, 0, 1, 1));
}

TEST_F(StreamDecoderTest, RefusesPendingBytesThatCannotBePending) {
  for (const char* pending :
       {"a", "\xE4\xBD\xA0", "\xFF", "\xE4\xE4", "\xF0\x9F\x98\x80", "ab\xE4"}) {
    const auto result = DecodeStep(*tokenizer_, {.ids = {}, .pending = pending, .flush = false});
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << pending;
    EXPECT_THAT(result.status().message(), HasSubstr("pending"));
  }
}

}  // namespace
}  // namespace qwenserve
