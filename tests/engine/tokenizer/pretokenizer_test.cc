#include "engine/tokenizer/pretokenizer.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Pieces(const std::string& text) {
  std::vector<std::string> pieces;
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p != end) {
    const char* const next = PieceEnd(p, end);
    pieces.emplace_back(p, next);
    p = next;
  }
  return pieces;
}

TEST(PretokenizerTest, WordsTakeOneCharacterInFront) {
  EXPECT_THAT(Pieces("Hello world"), ElementsAre("Hello", " world"));
  EXPECT_THAT(Pieces("(a\tb\u3000c!d"), ElementsAre("(a", "\tb", "\u3000c", "!d"));
  EXPECT_THAT(Pieces("\na"), ElementsAre("\n", "a"));
  EXPECT_THAT(Pieces("1a"), ElementsAre("1", "a"));
}

TEST(PretokenizerTest, ContractionsComeFirst) {
  EXPECT_THAT(Pieces("I'm"), ElementsAre("I", "'m"));
  EXPECT_THAT(Pieces("x'LLy'Reb'vez"), ElementsAre("x", "'LL", "y", "'Re", "b", "'ve", "z"));
  EXPECT_THAT(Pieces("'sab"), ElementsAre("'s", "ab"));
  EXPECT_THAT(Pieces("'\u017fa"), ElementsAre("'\u017f", "a"));
  EXPECT_THAT(Pieces("'xs'r"), ElementsAre("'xs", "'r"));
  EXPECT_THAT(Pieces("' era"), ElementsAre("'", " era"));
}

TEST(PretokenizerTest, NumbersStandAlone) {
  EXPECT_THAT(Pieces("12 3\u0663\u2167"), ElementsAre("1", "2", " ", "3", "\u0663", "\u2167"));
}

TEST(PretokenizerTest, OtherCharactersTakeASpaceAndNewlines) {
  EXPECT_THAT(Pieces("a !?\r\n\nb"), ElementsAre("a", " !?\r\n\n", "b"));
  EXPECT_THAT(Pieces("  ="), ElementsAre(" ", " ="));
  EXPECT_THAT(Pieces("\t="), ElementsAre("\t", "="));
  EXPECT_THAT(Pieces("=\u0301a"), ElementsAre("=\u0301", "a"));
}

TEST(PretokenizerTest, SpacesEndAtTheLastNewline) {
  EXPECT_THAT(Pieces("a \n \n  b"), ElementsAre("a", " \n \n", " ", " b"));
  EXPECT_THAT(Pieces("   \t"), ElementsAre("   \t"));
  EXPECT_THAT(Pieces("   1"), ElementsAre("  ", " ", "1"));
  EXPECT_THAT(Pieces("\u00a0\u20031"), ElementsAre("\u00a0", "\u2003", "1"));
  EXPECT_THAT(Pieces("\r\n"), ElementsAre("\r\n"));
  EXPECT_THAT(Pieces("\u0085\u0085\u001c"), ElementsAre("\u0085", "\u0085", "\u001c"));
}

}  // namespace
}  // namespace qwenserve
