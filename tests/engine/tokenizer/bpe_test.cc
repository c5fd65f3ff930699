#include "engine/tokenizer/bpe.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// All bytes, then what `merges` join, in that order.
Vocab MakeVocab(const std::vector<std::pair<std::string, std::string>>& merges) {
  Vocab vocab;
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_TRUE(
        vocab.Add(byte, std::string(1, static_cast<char>(byte)), Vocab::Kind::kRegular).ok());
  }
  const auto find = [&vocab](const std::string& bytes) {
    for (size_t id = 0; id < vocab.tokens.size(); ++id) {
      if (vocab.tokens[id] == bytes) return static_cast<int32_t>(id);
    }
    return -1;
  };
  for (const auto& [left, right] : merges) {
    const auto id = static_cast<int32_t>(vocab.tokens.size());
    EXPECT_TRUE(vocab.Add(id, left + right, Vocab::Kind::kRegular).ok());
    vocab.merges.push_back(
        {find(left), find(right), id, static_cast<uint32_t>(vocab.merges.size())});
  }
  return vocab;
}

std::vector<int32_t> Encode(const Vocab& vocab, const std::string& piece) {
  const auto bpe = Bpe::Create(vocab);
  EXPECT_TRUE(bpe.ok()) << bpe.status();
  std::vector<int32_t> ids;
  (*bpe)->Encode(piece, &ids);
  return ids;
}

TEST(BpeTest, JoinsTheLowestRankFirstAndTheLeftmostOfEquals) {
  const Vocab vocab = MakeVocab({{"b", "c"}, {"a", "b"}, {"a", "a"}});
  EXPECT_THAT(Encode(vocab, "abc"), ElementsAre('a', 256));
  EXPECT_THAT(Encode(vocab, "abd"), ElementsAre(257, 'd'));
  EXPECT_THAT(Encode(vocab, "aaa"), ElementsAre(258, 'a'));
}

TEST(BpeTest, ATokenThatMergesDoNotReachIsNotUsed) {
  Vocab vocab = MakeVocab({{"a", "b"}});
  ASSERT_TRUE(vocab.Add(257, "xyz", Vocab::Kind::kRegular).ok());
  EXPECT_THAT(Encode(vocab, "xyz"), ElementsAre('x', 'y', 'z'));
  vocab.whole_pieces_first = true;
  EXPECT_THAT(Encode(vocab, "xyz"), ElementsAre(257));
}

// The rule as it is written, at any cost.
std::vector<int32_t> SlowEncode(const Vocab& vocab, const std::string& piece) {
  std::vector<int32_t> ids(piece.begin(), piece.end());
  while (true) {
    const Vocab::Merge* best = nullptr;
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (const Vocab::Merge& merge : vocab.merges) {
        if (merge.left != ids[i] || merge.right != ids[i + 1]) continue;
        if (best != nullptr && merge.rank >= best->rank) continue;
        best = &merge;
        best_at = i;
      }
    }
    if (best == nullptr) return ids;
    ids[best_at] = best->result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

TEST(BpeTest, RandomPiecesOfAnyLengthFollowTheRule) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    // Parts may come out of merges of any rank, earlier or later than their own use.
    std::vector<std::pair<std::string, std::string>> merges;
    std::vector<std::string> tokens = {"a", "b", "c"};
    while (merges.size() < 25) {
      const std::string left = tokens[random() % tokens.size()];
      const std::string right = tokens[random() % tokens.size()];
      if (absl::c_linear_search(tokens, left + right)) continue;
      merges.emplace_back(left, right);
      tokens.push_back(left + right);
    }
    Vocab vocab = MakeVocab(merges);
    std::vector<uint32_t> ranks(merges.size());
    std::iota(ranks.begin(), ranks.end(), 0u);
    if (round % 2 == 1) std::shuffle(ranks.begin(), ranks.end(), random);
    for (size_t i = 0; i < ranks.size(); ++i) vocab.merges[i].rank = ranks[i];
    const auto bpe = Bpe::Create(vocab);
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    for (const size_t size : {1, 2, 3, 10, 64, 65, 66, 200}) {
      std::string piece;
      while (piece.size() < size) piece += static_cast<char>('a' + random() % 3);
      std::vector<int32_t> ids;
      Bpe::Work work;
      (*bpe)->Encode(piece, &ids, &work);
      ASSERT_EQ(ids, SlowEncode(vocab, piece)) << piece;
      // Merges in the order of training need not be carried out, others must be.
      ASSERT_EQ(work.tried > 0, round % 2 == 0);
    }
  }
}

// Merges of halves: a, aa, aaaa, ... up to 256.
std::vector<std::pair<std::string, std::string>> Doublings() {
  std::vector<std::pair<std::string, std::string>> merges;
  for (std::string half = "a"; half.size() < 256; half += half) merges.emplace_back(half, half);
  return merges;
}

TEST(BpeTest, AMillionEqualLettersTakeLinearlyManySteps) {
  const Vocab vocab = MakeVocab(Doublings());
  const auto bpe = Bpe::Create(vocab);
  ASSERT_TRUE(bpe.ok());
  constexpr int64_t kSize = 1 << 20;
  std::vector<int32_t> ids;
  Bpe::Work work;
  (*bpe)->Encode(std::string(kSize, 'a'), &ids, &work);
  EXPECT_EQ(ids, std::vector<int32_t>(kSize / 256, 263));
  EXPECT_EQ(work.tried, kSize / 256);
}

// Where the longest token is mostly wrong and the end of the piece decides what is right.
TEST(BpeTest, SteppingBackTakesLinearlyManySteps) {
  std::vector<std::pair<std::string, std::string>> merges = Doublings();
  merges.emplace_back("a", "b");
  merges.emplace_back("aa", "ab");
  merges.emplace_back("aa", "a");
  merges.emplace_back("aaa", "b");  // no result has it
  const Vocab vocab = MakeVocab(merges);
  const auto bpe = Bpe::Create(vocab);
  ASSERT_TRUE(bpe.ok());
  for (const int64_t size : {1000, 100000}) {
    for (const char* tail : {"b", "ab", "aab", "aaabb"}) {
      const std::string piece = std::string(size, 'a') + tail;
      std::vector<int32_t> ids;
      Bpe::Work work;
      (*bpe)->Encode(piece, &ids, &work);
      EXPECT_LE(work.tried, 10 * size) << tail;
      if (size == 1000) {
        EXPECT_EQ(ids, SlowEncode(vocab, piece)) << tail;
      }
    }
  }
}

// The bound that makes the time n log n: every position enters the queue once, and every merge
// adds at most two entries.
TEST(BpeTest, MergingAMillionLettersTakesLinearlyManySteps) {
  Vocab vocab = MakeVocab(Doublings());
  std::swap(vocab.merges[0].rank, vocab.merges[1].rank);
  const auto bpe = Bpe::Create(vocab);
  ASSERT_TRUE(bpe.ok());
  constexpr int64_t kSize = 1 << 20;
  std::vector<int32_t> ids;
  Bpe::Work work;
  (*bpe)->Encode(std::string(kSize, 'a'), &ids, &work);
  EXPECT_EQ(ids, std::vector<int32_t>(kSize / 256, 263));
  EXPECT_EQ(work.merges, kSize - kSize / 256);
  EXPECT_LE(work.queue_pushes, kSize + 2 * work.merges);
}

TEST(BpeTest, RefusesABrokenVocabulary) {
  Vocab no_byte = MakeVocab({});
  no_byte.kinds[7] = Vocab::Kind::kNone;
  EXPECT_THAT(Bpe::Create(no_byte).status().message(), HasSubstr("byte 7"));
  Vocab control = MakeVocab({{"a", "b"}});
  control.kinds[256] = Vocab::Kind::kControl;
  EXPECT_THAT(Bpe::Create(control).status().message(), HasSubstr("added token 256"));
}

}  // namespace
}  // namespace qwenserve
