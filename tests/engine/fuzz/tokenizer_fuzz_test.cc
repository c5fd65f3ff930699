// Spoiled tokenizer files: a clear refusal, or a tokenizer that still loses no byte.
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/tokenizer.h"
#include "gtest/gtest.h"
#include "tests/engine/fuzz/mutator.h"
#include "tests/engine/tokenizer/tiny_model.h"

namespace qwenserve {
namespace {

// Any accepted vocabulary has all bytes, and merges that join what they say: whatever else it
// holds, the tokens of a text spell the text, and none of them is a special one.
void CheckTokenizer(const Tokenizer& tokenizer) {
  for (const std::string text : {"lower newer \xe4\xbd\xa0 <|im_start|> 12345\n\n  ",
                                 "looooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooo"
                                 "oooooooooooooooooooooooooooooooooooooooooooooooooooooooower"}) {
    const auto ids = tokenizer.Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    std::string bytes;
    for (const int32_t id : *ids) {
      ASSERT_TRUE(tokenizer.HasToken(id)) << id;
      EXPECT_FALSE(tokenizer.IsSpecial(id)) << id;
      absl::StrAppend(&bytes, tokenizer.TokenBytes(id));
    }
    EXPECT_EQ(bytes, text);
  }
}

void Fuzz(const std::string& file, const std::string& good, int rounds,
          const std::vector<std::string>& words) {
  TempDir dir;
  int accepted = 0;
  ForEachSeed(rounds, [&](uint32_t seed) {
    Mutator mutator(seed);
    dir.Write(file, mutator.Mutate(good, words));
    const auto tokenizer = Tokenizer::Load(dir.path());
    if (!tokenizer.ok()) return ExpectCleanError(tokenizer.status());
    ++accepted;
    CheckTokenizer(**tokenizer);
  });
  EXPECT_GT(accepted, 0);
}

TEST(TokenizerFuzz, TokenizerJson) {
  Fuzz("tokenizer.json", TinyTokenizerJson().dump(), 2000, JsonWords());
}

TEST(TokenizerFuzz, TiktokenFile) {
  std::string good;
  int rank = 0;
  for (int byte = 0; byte < 256; ++byte) {
    absl::StrAppend(&good, absl::Base64Escape(std::string(1, static_cast<char>(byte))), " ", rank++,
                    "\n");
  }
  for (const char* token : {"lo", "low", "er", "lower", "oo", "oooo", " n", "12"}) {
    absl::StrAppend(&good, absl::Base64Escape(token), " ", rank++, "\n");
  }
  Fuzz("qwen.tiktoken", good, 2000,
       {"\n", "\r\n", " ", "=", "AA== 0\n", "bG93ZXI= 264\n", "18446744073709551616", "-1",
        std::string(3000, 'A'), "\xff"});
}

}  // namespace
}  // namespace qwenserve
