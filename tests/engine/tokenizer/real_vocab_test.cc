// Published token ids of the real Qwen vocabulary. Sources: QwenLM/Qwen (tokenization_note.md,
// tokenizer showcase, react_prompt.md), the Qwen2 tokenizer tests of transformers, the qwen2
// vocabulary tests of llama.cpp; a few were computed by an independent implementation.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/stream_decoder.h"
#include "engine/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tokenizer/tiny_model.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;

using Ids = std::vector<int32_t>;

class RealVocabTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto loaded = Tokenizer::Load(RealModelDir());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = loaded->release();
  }
  static void TearDownTestSuite() { delete tokenizer_; }
  void SetUp() override { ASSERT_NE(tokenizer_, nullptr); }

  static Ids Encode(const std::string& text) {
    const auto ids = tokenizer_->Encode(text);
    EXPECT_TRUE(ids.ok()) << ids.status();
    return *ids;
  }

  static Ids Chat(const char* name, const std::vector<ChatMessage>& messages) {
    const auto segments = ChatTemplate::ByName(name)->Render(messages, {});
    EXPECT_TRUE(segments.ok()) << segments.status();
    const auto ids = EncodeChat(*tokenizer_, *segments);
    EXPECT_TRUE(ids.ok()) << ids.status();
    return *ids;
  }

  static std::string Decode(const Ids& ids, bool flush) {
    return DecodeStep(*tokenizer_, {.ids = ids, .pending = "", .flush = flush})->text;
  }

  static inline Tokenizer* tokenizer_ = nullptr;
};

TEST_F(RealVocabTest, PublishedVectors) {
  const struct {
    const char* text;
    Ids ids;
  } cases[] = {
      {"print(\"<|endoftext|>\")", {1350, 9639, 91, 8691, 723, 427, 91, 82598}},
      {"print('<|endoftext|>')", {1350, 11146, 91, 8691, 723, 427, 91, 79865}},
      {"我是一只猫", {35946, 99639, 91680, 100472}},
      {"是一只猫", {99639, 91680, 100472}},
      {"Panda", {47, 9817}},
      {" Panda", {72410}},
      {"Pandas", {47, 55433}},
      {" Pandas", {33506, 300}},
      {"Observation", {37763, 367}},
      {"Observation:", {37763, 367, 25}},
      {"Observation:\n", {37763, 367, 510}},
      {"Observation:\n\n", {37763, 367, 1447}},
      {"Hello world", {9707, 1879}},
      {" Hello world", {21927, 1879}},
      {"🤗 Transformers 提供了可以轻松地下载并且训练先进的预训练模型的 "
       "API "
       "和工具。使用预训练模型可以减少计算消耗和碳排放，并且节省从头训练所需要的时间和资源。",
       {144834, 80532,  93685,  83744,  34187,  73670,  104261, 29490,  62189,  103937, 104034,
        102830, 98841,  104034, 104949, 9370,   5333,   58143,  102011, 1773,   37029,  98841,
        104034, 104949, 73670,  101940, 100768, 104997, 33108,  100912, 105054, 90395,  100136,
        106831, 45181,  64355,  104034, 113521, 101975, 33108,  85329,  1773}},
      {" ", {220}},
      {"  ", {256}},
      {"   ", {262}},
      {"\t", {197}},
      {"\n", {198}},
      {"\n\n", {271}},
      {"\n\n\n", {1406}},
      {"\t\n", {1572}},
      {"Hello, y'all! How are you 😁 ?我想在apple工作1314151天～",
       {9707,  11,    379,   64848, 0,  2585, 525, 498, 26525, 223, 937,   104100,
        18493, 22377, 99257, 16,    18, 16,   19,  16,  20,    16,  35727, 21216}},
      {"w048 7tuijk dsdfhu", {86, 15, 19, 23, 220, 22, 83, 1963, 41808, 11472, 2940, 16739}},
      {"🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ (only emoji that has its "
       "own "
       "token)",
       {145836, 320, 8252,  8,   26525, 114,  378,   235, 149921, 30543, 320,  35673, 99066,
        97534,  8,   25521, 227, 320,   3243, 42365, 429, 702,    1181,  1828, 3950,  8}},
      {"Führer", {37, 50753, 261}},
      {"Cửa Việt", {34, 90063, 128324}},
      {"ied 4 ½ months", {1122, 220, 19, 220, 26062, 3951}},
      {"!!!!!!", {17085, 2928}},
      {"\n =", {198, 284}},
      {"' era", {6, 11385}},
      {"\u03d2\u0301", {149493}},
      {"e\u0301", {963}},
      {"é", {963}},
      {"12345", {16, 17, 18, 19, 20}},
      {"I'm", {40, 2776}},
      {"I'M", {40, 27603}},
      {"a\r\nb", {64, 319, 65}},
      {"a\u00a0b", {64, 4102, 65}},
      {"\u3000你好", {22441, 108386}},
      {"<think>\n\n</think>\n\n", {13708, 766, 1339, 522, 26865, 1339}},
      {"system", {8948}},
      {"user", {872}},
      {"assistant", {77091}},
      {"你好", {108386}},
      {"Human:", {33975, 25}},
      {"Final Answer:", {19357, 21806, 25}},
      {"✿FUNCTION✿", {144575, 18149, 144575}},
      {"✿ARGS✿", {144575, 47483, 144575}},
      {"✿RESULT✿", {144575, 14098, 144575}},
      {"✿RETURN✿", {144575, 51533, 144575}},
      {"<|im_start|>user\nhi<|im_end|>",
       {27, 91, 318, 4906, 91, 29, 872, 198, 6023, 27, 91, 318, 6213, 91, 29}},
  };
  for (const auto& test_case : cases) EXPECT_EQ(Encode(test_case.text), test_case.ids);
}

// With control tokens allowed, a template's job here: text and token pieces are told apart.
TEST_F(RealVocabTest, PublishedVectorsWithControlTokens) {
  using Kind = Segment::Kind;
  const auto encode = [](const std::vector<Segment>& segments) {
    return *EncodeChat(*tokenizer_, segments);
  };
  EXPECT_THAT(
      encode({{Kind::kText, "print(\""}, {Kind::kControl, "<|endoftext|>"}, {Kind::kText, "\")"}}),
      ElementsAre(1350, 445, 151643, 899));
  EXPECT_THAT(encode({{Kind::kText, "print(\"<|extra_0|>\")"}, {Kind::kControl, "<|endoftext|>"}}),
              ElementsAre(1350, 9639, 91, 15460, 62, 15, 91, 82598, 151643));
  EXPECT_THAT(encode({{Kind::kText, "print('"},
                      {Kind::kControl, "<|endoftext|>"},
                      {Kind::kText, "')"},
                      {Kind::kControl, "<|endoftext|>"}}),
              ElementsAre(1350, 492, 151643, 863, 151643));
  EXPECT_THAT(encode({{Kind::kControl, "<|im_start|>"},
                      {Kind::kText, "print('<|extra_0|>')"},
                      {Kind::kControl, "<|im_end|>"},
                      {Kind::kControl, "<|endoftext|>"}}),
              ElementsAre(151644, 1350, 11146, 91, 15460, 62, 15, 91, 79865, 151645, 151643));
}

TEST_F(RealVocabTest, SizeAndControlTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 151851);
  EXPECT_EQ(tokenizer_->SpecialTokenId("<|endoftext|>"), 151643);
  EXPECT_EQ(tokenizer_->SpecialTokenId("<|extra_204|>"), 151850);
  EXPECT_EQ(tokenizer_->SpecialTokenId("<tool_call>"), std::nullopt);
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    ASSERT_EQ(tokenizer_->IsSpecial(id), id >= 151643);
  }
}

// The six words that QwenLM's note on the tokenizer adds, with the ids it shows.
TEST_F(RealVocabTest, ExtraVocabulary) {
  const TempDir dir;
  std::filesystem::create_symlink(std::filesystem::absolute(RealModelDir() + "/qwen.tiktoken"),
                                  dir.path() + "/qwen.tiktoken");
  std::string lines;
  int rank = 151851;
  for (const char* word :
       {"一只猫", "只猫", "是一只猫", "我是一只猫", "你是一只猫", "他是一只猫"}) {
    absl::StrAppend(&lines, absl::Base64Escape(word), " ", rank++, "\n");
  }
  dir.Write("qwen_extra.tiktoken", lines);
  dir.Write("tokenizer_config.json", R"({"extra_vocab_file": "qwen_extra.tiktoken"})");
  const auto tokenizer = Tokenizer::Load(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 151857);
  EXPECT_THAT(*(*tokenizer)->Encode("我是一只猫"), ElementsAre(151854));
  EXPECT_THAT(*(*tokenizer)->Encode("是一只猫"), ElementsAre(151853));
  EXPECT_NE((*tokenizer)->hash(), tokenizer_->hash());
}

TEST_F(RealVocabTest, ATokenMayHoldAWholeAndAPartialCharacter) {
  EXPECT_EQ(tokenizer_->TokenBytes(51461), " \xE6\xA0");
  EXPECT_EQ(Decode({51461}, false), " ");
  EXPECT_EQ(Decode({51461}, true), " \uFFFD");
  EXPECT_EQ(Decode({51461, 117}, false), " 根");
}

TEST_F(RealVocabTest, Qwen1Chats) {
  const ChatMessage hello = {.role = "user", .content = "你好"};
  EXPECT_THAT(Chat("qwen1", {hello}),
              ElementsAre(151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198, 151644,
                          872, 198, 108386, 151645, 198, 151644, 77091, 198));
  const Ids two_turns =
      Chat("qwen1", {hello,
                     {.role = "assistant", .content = "你好！很高兴为你提供帮助。"},
                     {.role = "user", .content = "给我讲一个年轻人奋斗创业最终取得成功的故事。"}});
  EXPECT_EQ(
      Ids(two_turns.begin() + 17, two_turns.end()),
      (Ids{151644, 77091,  198,    108386, 6313,   112169, 106184, 99553,  100364, 1773,   151645,
           198,    151644, 872,    198,    104169, 99526,  46944,  102411, 102555, 100388, 103941,
           101094, 19108,  104413, 1773,   151645, 198,    151644, 77091,  198}));
  // The content's newlines do not join the one behind the role.
  const Ids newlines = Chat("qwen1", {{.role = "user", .content = "\n\nhi"}});
  EXPECT_EQ(Ids(newlines.begin() + 11, newlines.begin() + 16), (Ids{151644, 872, 198, 271, 6023}));
  const Ids joined = Chat("qwen2", {{.role = "user", .content = "\n\nhi"}});
  EXPECT_EQ(Ids(joined.begin() + 11, joined.begin() + 15), (Ids{151644, 872, 1406, 6023}));
}

TEST_F(RealVocabTest, LaterChats) {
  const ChatMessage hello = {.role = "user", .content = "hello"};
  EXPECT_THAT(Chat("qwen2.5", {hello}),
              ElementsAre(151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817,
                          13, 1446, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198,
                          14990, 151645, 198, 151644, 77091, 198));
  EXPECT_THAT(Chat("qwen1.5", {hello}),
              ElementsAre(151644, 8948, 198, 2610, 525, 264, 10950, 17847, 151645, 198, 151644, 872,
                          198, 14990, 151645, 198, 151644, 77091, 198));
  EXPECT_THAT(Chat("qwen3", {hello}),
              ElementsAre(151644, 872, 198, 14990, 151645, 198, 151644, 77091, 198));
}

TEST_F(RealVocabTest, DecodingEveryTokenGivesItsBytes) {
  for (int32_t id = 0; id < 151643; ++id) {
    const auto result = DecodeStep(*tokenizer_, {.ids = {id}, .pending = "", .flush = false});
    ASSERT_TRUE(result.ok());
    ASSERT_LE(result->pending.size(), 3u);
    if (result->text.find("\uFFFD") == std::string::npos) {
      ASSERT_EQ(result->text + result->pending, tokenizer_->TokenBytes(id));
    }
  }
}

// Each of these is one piece, or one run of marks, of a megabyte.
TEST_F(RealVocabTest, LongUniformTextsComeBackWhole) {
  for (const std::string unit :
       {"a", " ", "\n", "\u0301", "天地玄黄", "😀", "=-", "ab", "\u0e01\u0e31"}) {
    std::string text;
    while (text.size() < 1000000) text += unit;
    const Ids ids = Encode(text);
    EXPECT_LT(ids.size(), text.size()) << unit;
    EXPECT_EQ(Decode(ids, true), text) << unit;
  }
}

}  // namespace
}  // namespace qwenserve
