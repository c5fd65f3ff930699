#include "engine/tokenizer/token_trie.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(TokenTrieTest, EmptyTrieAndEmptyTextHaveNothing) {
  EXPECT_EQ(TokenTrie({}, {}).Longest(std::string(3, '\0')).id, -1);
  EXPECT_EQ(TokenTrie({"a"}, {0}).Longest("").id, -1);
  EXPECT_EQ(TokenTrie({"a"}, {}).Longest("a").id, -1);
}

TEST(TokenTrieTest, RandomTokensAgainstASearch) {
  std::mt19937 random(3);
  for (const int alphabet : {2, 5, 256}) {
    std::vector<std::string> tokens;
    std::vector<int32_t> ids;
    while (tokens.size() < 300) {
      std::string token;
      for (size_t size = 1 + random() % 9; token.size() < size;) {
        token += static_cast<char>(random() % alphabet + 256 - alphabet);
      }
      if (std::find(tokens.begin(), tokens.end(), token) != tokens.end()) continue;
      // Some are in the vocabulary only.
      if (random() % 4 != 0) ids.push_back(static_cast<int32_t>(tokens.size()));
      tokens.push_back(token);
    }
    const TokenTrie trie(tokens, ids);
    for (int i = 0; i < 2000; ++i) {
      std::string text;
      while (text.size() < 12) text += static_cast<char>(random() % alphabet + 256 - alphabet);
      if (i % 2 == 0) text = tokens[random() % tokens.size()] + text;
      int32_t longest = -1;
      for (const int32_t id : ids) {
        const bool starts = text.compare(0, tokens[id].size(), tokens[id]) == 0;
        if (starts && (longest < 0 || tokens[id].size() > tokens[longest].size())) longest = id;
      }
      const TokenTrie::Match match = trie.Longest(text);
      ASSERT_EQ(match.id, longest);
      if (longest >= 0) {
        ASSERT_EQ(match.size, static_cast<int32_t>(tokens[longest].size()));
      }
    }
  }
}

}  // namespace
}  // namespace qwenserve
