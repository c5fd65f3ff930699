#include "services/gateway/answer/stop_strings.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> matched;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// By definition: of all occurrences the one that ends first, of those the one that begins first.
Outcome Oracle(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t s = 0; s < stops.size(); ++s) {
      const std::string& stop = stops[s];
      if (stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (!best || stop.size() > stops[*best].size()) best = s;
    }
    if (best) return {text.substr(0, end - stops[*best].size()), best};
  }
  return {text, std::nullopt};
}

// `cuts`: bit i set cuts after byte i. Also checks that nothing is ever taken back, and that no
// more is held than may still become a match.
Outcome PushAll(const std::string& text, const std::vector<std::string>& stops, uint64_t cuts) {
  StopMatcher matcher(stops);
  Outcome outcome;
  std::string piece;
  size_t pushed = 0;
  size_t longest = 0;
  for (const std::string& stop : stops) longest = std::max(longest, stop.size());
  for (size_t i = 0; i < text.size(); ++i) {
    piece.push_back(text[i]);
    if (i + 1 < text.size() && (cuts >> i & 1) == 0) continue;
    StopMatcher::Result result = matcher.Push(piece);
    pushed += piece.size();
    piece.clear();
    outcome.text += result.text;
    if (result.matched) {
      outcome.matched = result.matched;
      return outcome;
    }
    EXPECT_LT(pushed - outcome.text.size(), std::max<size_t>(longest, 1));
  }
  outcome.text += matcher.Finish();
  return outcome;
}

TEST(StopMatcherTest, EveryTextAndEveryCutAgreesWithTheDefinition) {
  const std::vector<std::vector<std::string>> stop_sets = {
      {},        {"a"},          {"ab"},           {"aab"},         {"abab", "b"},
      {"aba"},   {"ab", "ba"},   {"bb", "abb"},    {"aaa", "aab"},  {"b", "ab", "aab"},
      {"abaab"}, {"aa", "aaaa"}, {"babb", "abba"}, {"bab", "abab"}, {"a", "a"},
  };
  constexpr size_t kLength = 7;
  for (const auto& stops : stop_sets) {
    for (uint32_t bits = 0; bits < 1u << kLength; ++bits) {
      std::string text;
      for (size_t i = 0; i < kLength; ++i) text.push_back(bits >> i & 1 ? 'b' : 'a');
      const Outcome expected = Oracle(text, stops);
      for (uint64_t cuts = 0; cuts < 1u << (kLength - 1); ++cuts) {
        ASSERT_EQ(PushAll(text, stops, cuts), expected) << text << " cut at " << cuts;
      }
    }
  }
}

TEST(StopMatcherTest, RandomLongTexts) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 3000; ++round) {
    auto word = [&](size_t length) {
      std::string text;
      while (text.size() < length) text.push_back(static_cast<char>('a' + random() % 3));
      return text;
    };
    std::vector<std::string> stops;
    for (size_t i = random() % 5; i > 0; --i) stops.push_back(word(1 + random() % 8));
    const std::string text = word(64);
    ASSERT_EQ(PushAll(text, stops, random()), Oracle(text, stops)) << text;
  }
}

TEST(StopMatcherTest, HoldsBackOnlyWhatMayBecomeAMatch) {
  StopMatcher matcher({"\n\nUser:"});
  EXPECT_EQ(matcher.Push("Yes.\n").text, "Yes.");
  EXPECT_EQ(matcher.Push("\nUs").text, "");
  EXPECT_EQ(matcher.Push("ing").text, "\n\nUsing");
  EXPECT_EQ(matcher.Push(" it\n").text, " it");
  EXPECT_EQ(matcher.Finish(), "\n");
}

TEST(StopMatcherTest, CutsBetweenCharactersOnly) {
  // The stop string's first byte is also that of the character before it.
  StopMatcher matcher({"\xE4\xBD\xA0"});
  EXPECT_EQ(matcher.Push("\xE4\xBB\xA5").text, "\xE4\xBB\xA5");
  const StopMatcher::Result result = matcher.Push("x\xE4\xBD\xA0y");
  EXPECT_EQ(result.text, "x");
  EXPECT_EQ(result.matched, 0u);
}

}  // namespace
}  // namespace qwenserve
