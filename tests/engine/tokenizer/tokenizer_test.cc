#include "engine/tokenizer/tokenizer.h"

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/nfc.h"
#include "engine/tokenizer/stream_decoder.h"
#include "engine/tokenizer/unicode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tokenizer/tiny_model.h"

namespace qwenserve {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> Encode(const Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.Encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return *ids;
}

absl::Status LoadError(const Json& json) {
  const TempDir dir;
  dir.Write("tokenizer.json", json.dump());
  return Tokenizer::Load(dir.path()).status();
}

TEST(TokenizerTest, EncodesThePublishedExamplesOfTheTinyVocabulary) {
  const auto tokenizer = LoadTokenizer(TinyTokenizerJson());
  EXPECT_THAT(Encode(*tokenizer, "lower lower newer 010;}\n"),
              ElementsAre(75, 78, 86, 260, 259, 260, 220, 77, 68, 86, 260, 220, 15, 16, 15, 266));
  EXPECT_THAT(Encode(*tokenizer, "\u03d2\u0301"), ElementsAre(267));
  EXPECT_THAT(Encode(*tokenizer, " ###"), ElementsAre(268, 269));
  EXPECT_THAT(Encode(*tokenizer, ""), ElementsAre());
}

TEST(TokenizerTest, MergesMayBeListsOfPairs) {
  Json json = TinyTokenizerJson();
  for (Json& merge : json["model"]["merges"]) {
    const std::string text = merge.get<std::string>();
    const size_t space = text.find(' ');
    merge = Json::array({text.substr(0, space), text.substr(space + 1)});
  }
  const auto tokenizer = LoadTokenizer(json);
  EXPECT_THAT(Encode(*tokenizer, " lower"), ElementsAre(259, 260));
  EXPECT_EQ(tokenizer->hash(), LoadTokenizer(TinyTokenizerJson())->hash());
}

TEST(TokenizerTest, TextNeverBecomesAnAddedToken) {
  const auto tokenizer = LoadTokenizer(TinyTokenizerJson());
  for (const char* text : {"<|endoftext|>", "<|im_start|>user\nhi<|im_end|>", "<tool_call>"}) {
    for (const int32_t id : Encode(*tokenizer, text)) EXPECT_LT(id, 270) << text;
  }
}

TEST(TokenizerTest, KnowsItsAddedTokens) {
  const auto tokenizer = LoadTokenizer(TinyTokenizerJson());
  EXPECT_EQ(tokenizer->SpecialTokenId("<|im_end|>"), 272);
  EXPECT_EQ(tokenizer->SpecialTokenId("<tool_call>"), 273);
  EXPECT_EQ(tokenizer->SpecialTokenId("er"), std::nullopt);
  EXPECT_TRUE(tokenizer->IsSpecial(272));
  EXPECT_FALSE(tokenizer->IsSpecial(273));
  EXPECT_FALSE(tokenizer->IsSpecial(260));
  EXPECT_EQ(tokenizer->TokenBytes(265), ";}");
  EXPECT_EQ(tokenizer->TokenBytes(273), "<tool_call>");
  EXPECT_EQ(tokenizer->vocab_size(), 274);
  for (const int32_t id : {-1, 274, 1 << 30}) {
    EXPECT_FALSE(tokenizer->HasToken(id));
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  }
}

TEST(TokenizerTest, TheHashTellsVocabulariesApart) {
  const std::string hash = LoadTokenizer(TinyTokenizerJson())->hash();
  EXPECT_EQ(hash.size(), 64u);
  Json token = TinyTokenizerJson();
  token["added_tokens"][3]["content"] = "<tool>";
  Json special = TinyTokenizerJson();
  special["added_tokens"][3]["special"] = true;
  Json merge = TinyTokenizerJson();
  std::swap(merge["model"]["merges"][3], merge["model"]["merges"][4]);
  for (const Json& other : {token, special, merge}) EXPECT_NE(LoadTokenizer(other)->hash(), hash);
  Json cosmetic = TinyTokenizerJson();
  cosmetic["version"] = "1.0";
  EXPECT_EQ(LoadTokenizer(cosmetic)->hash(), hash);
}

TEST(TokenizerTest, DecodingWhatWasEncodedGivesTheNormalForm) {
  const auto tokenizer = LoadTokenizer(TinyTokenizerJson());
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (size_t i = random() % 20; i > 0; --i) {
      char32_t code = random() % (random() % 4 == 0 ? 0x110000 : 0x3000);
      if (code >= 0xD800 && code <= 0xDFFF) code = 'x';
      AppendUtf8(code, &text);
    }
    std::string storage;
    const auto decoded =
        DecodeStep(*tokenizer, {.ids = Encode(*tokenizer, text), .pending = "", .flush = true});
    ASSERT_TRUE(decoded.ok());
    ASSERT_EQ(decoded->text, *ToNfc(text, &storage)) << testing::PrintToString(text);
  }
}

TEST(TokenizerTest, InvalidUtf8IsRefusedWithItsPosition) {
  const auto tokenizer = LoadTokenizer(TinyTokenizerJson());
  const auto status = tokenizer->Encode("abc\xe4\xbd").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("byte 3"));
}

TEST(TokenizerTest, RefusesOtherKindsOfTokenizersByMember) {
  const struct {
    const char* expected;
    std::function<void(Json&)> change;
  } cases[] = {
      {"model.type", [](Json& j) { j["model"]["type"] = "Unigram"; }},
      {"model.byte_fallback", [](Json& j) { j["model"]["byte_fallback"] = true; }},
      {"model.dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }},
      {"model.end_of_word_suffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }},
      {"normalizer", [](Json& j) { j["normalizer"]["type"] = "NFKC"; }},
      {"normalizer", [](Json& j) { j.erase("normalizer"); }},
      {"Split pattern \"x+\"",
       [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x+"; }},
      {"Split behaviour",
       [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }},
      {"ByteLevel",
       [](Json& j) { j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }},
      {"ByteLevel", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][1].erase("use_regex"); }},
      {"pre_tokenizer",
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "Whitespace"}};
       }},
      {"decoder", [](Json& j) { j["decoder"]["type"] = "Metaspace"; }},
      {"post_processor", [](Json& j) { j["post_processor"]["type"] = "TemplateProcessing"; }},
  };
  for (const auto& test_case : cases) {
    Json json = TinyTokenizerJson();
    test_case.change(json);
    const absl::Status status = LoadError(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr(test_case.expected), HasSubstr("tokenizer.json")));
  }
}

TEST(TokenizerTest, RefusesMalformedFilesByMember) {
  const struct {
    const char* expected;
    std::function<void(Json&)> change;
  } cases[] = {
      {"no model", [](Json& j) { j.erase("model"); }},
      {"model.vocab is not", [](Json& j) { j["model"]["vocab"] = 3; }},
      {"model.merges is not", [](Json& j) { j["model"]["merges"] = "x"; }},
      {"model.merges[2]", [](Json& j) { j["model"]["merges"][2] = "one"; }},
      {"\"\u0120q\" is not a token", [](Json& j) { j["model"]["merges"][0] = "\u0120 q"; }},
      {"outside the byte-level alphabet", [](Json& j) { j["model"]["vocab"]["你"] = 300; }},
      {"id -1 is outside", [](Json& j) { j["model"]["vocab"]["zz"] = -1; }},
      {"id 99999999 is outside", [](Json& j) { j["model"]["vocab"]["zz"] = 99999999; }},
      {"id 5 is taken", [](Json& j) { j["model"]["vocab"]["zz"] = 5; }},
      {"\"zz\": no id", [](Json& j) { j["model"]["vocab"]["zz"] = "5"; }},
      {"no token for byte", [](Json& j) { j["model"]["vocab"].erase("!"); }},
      {"added_tokens[1] needs", [](Json& j) { j["added_tokens"][1].erase("id"); }},
      {"added_tokens[1]: id 270", [](Json& j) { j["added_tokens"][1]["id"] = 270; }},
      {"\"<|endoftext|>\" twice",
       [](Json& j) { j["added_tokens"][1]["content"] = "<|endoftext|>"; }},
      {"added token 270", [](Json& j) { j["model"]["vocab"]["<|endoftext|>"] = 280; }},
  };
  for (const auto& test_case : cases) {
    Json json = TinyTokenizerJson();
    test_case.change(json);
    const absl::Status status = LoadError(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test_case.expected;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr(test_case.expected), HasSubstr("tokenizer.json")));
  }
}

TEST(TokenizerTest, AVocabularyMayListItsAddedTokens) {
  Json json = TinyTokenizerJson();
  json["model"]["vocab"]["<|im_end|>"] = 272;
  const auto tokenizer = LoadTokenizer(json);
  EXPECT_EQ(tokenizer->hash(), LoadTokenizer(TinyTokenizerJson())->hash());
}

TEST(TokenizerTest, AFolderWithoutAVocabularyIsNotFound) {
  const TempDir dir;
  const absl::Status status = Tokenizer::Load(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("neither tokenizer.json nor qwen.tiktoken"));
}

// A qwen.tiktoken of the 256 bytes and "ab", "abc".
std::string TinyTiktoken(absl::string_view line_end) {
  std::string text;
  for (int rank = 0; rank < 258; ++rank) {
    const std::string token = rank < 256    ? std::string(1, static_cast<char>(rank))
                              : rank == 256 ? "ab"
                                            : "abc";
    absl::StrAppend(&text, absl::Base64Escape(token), " ", rank, line_end);
  }
  return text;
}

TEST(TiktokenFileTest, AnyLineEndGivesTheSameTokenizer) {
  const TempDir unix_dir, dos_dir;
  unix_dir.Write("qwen.tiktoken", TinyTiktoken("\n"));
  dos_dir.Write("qwen.tiktoken", TinyTiktoken("\r\n") + "\r\n");  // an empty last line, too
  const auto from_unix = Tokenizer::Load(unix_dir.path());
  const auto from_dos = Tokenizer::Load(dos_dir.path());
  ASSERT_TRUE(from_unix.ok() && from_dos.ok()) << from_unix.status() << from_dos.status();
  EXPECT_EQ((*from_unix)->hash(), (*from_dos)->hash());
  EXPECT_THAT(Encode(**from_dos, "xabc"), ElementsAre('x', 257));
  EXPECT_EQ((*from_dos)->SpecialTokenId("<|endoftext|>"), 258);
  EXPECT_EQ((*from_dos)->SpecialTokenId("<|extra_204|>"), 258 + 207);
  EXPECT_EQ((*from_dos)->vocab_size(), 258 + 208);
}

TEST(TiktokenFileTest, ExtraRanksFollowTheControlTokens) {
  const TempDir dir;
  dir.Write("qwen.tiktoken", TinyTiktoken("\n"));
  dir.Write("tokenizer_config.json", R"({"extra_vocab_file": "extra.tiktoken"})");
  dir.Write("extra.tiktoken", absl::StrCat(absl::Base64Escape("xy"), " 466\n"));
  const auto tokenizer = Tokenizer::Load(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Encode(**tokenizer, "zxy"), ElementsAre('z', 466));
  dir.Write("tokenizer_config.json", R"({"extra_vocab_file": "../extra.tiktoken"})");
  EXPECT_THAT(Tokenizer::Load(dir.path()).status().message(), HasSubstr("../extra.tiktoken"));
}

TEST(TiktokenFileTest, ErrorsNameTheLine) {
  const struct {
    std::string line;
    const char* expected;
  } cases[] = {{"!!! 258", "base64"},
               {absl::Base64Escape("zz"), "not a rank"},
               {absl::Base64Escape("zz") + " x", "not a rank"},
               {absl::Base64Escape("zz") + " 300", "rank 300 where 258 is due"},
               {" 258", "base64"}};
  for (const auto& test_case : cases) {
    const TempDir dir;
    dir.Write("qwen.tiktoken", TinyTiktoken("\n") + test_case.line + "\n");
    const absl::Status status = Tokenizer::Load(dir.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("qwen.tiktoken: line 259"), HasSubstr(test_case.expected)));
  }
  const TempDir dir;
  dir.Write("qwen.tiktoken", TinyTiktoken("\n") + absl::Base64Escape("ab") + " 258\n");
  EXPECT_THAT(Tokenizer::Load(dir.path()).status().message(), HasSubstr("ranks 256 and 258"));
}

}  // namespace
}  // namespace qwenserve
