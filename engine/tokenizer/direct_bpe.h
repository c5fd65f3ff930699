#ifndef QWENSERVE_ENGINE_TOKENIZER_DIRECT_BPE_H_
#define QWENSERVE_ENGINE_TOKENIZER_DIRECT_BPE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/tokenizer/merge_table.h"
#include "engine/tokenizer/token_trie.h"
#include "engine/tokenizer/vocab.h"

namespace qwenserve {

// The result of byte-pair encoding, found from left to right without carrying the merges out.
//
// Two tokens stand side by side in a result if and only if encoding just their bytes gives these
// two again: up to the first merge across their common border, what happens on either side does not
// depend on the other side, nor on anything further away. So a sequence of tokens is the result if
// every pair of neighbours is possible, and the result of a text's beginning is the beginning of
// such a sequence: try the longest token first, then shorter ones, and step back where none fits.
// (The property is shown in Berglund and van der Merwe, "Formalizing BPE Tokenization", 2023.)
//
// This holds where each token is made by one merge of a later rank than those of its parts, as
// training makes them. Immutable, thread-safe.
class DirectBpe {
 public:
  // Null for another vocabulary. `byte_ids`: the 256 tokens of one byte. `vocab` must outlive the
  // object.
  static std::unique_ptr<DirectBpe> Create(const Vocab& vocab, const MergeTable& merges,
                                           const int32_t* byte_ids);

  // False for a token that encoding its own bytes does not give: it is never in a result.
  bool IsReachable(int32_t id) const { return tokens_[static_cast<size_t>(id)].reachable; }

  // Appends the ids of `piece`, which is not empty. Every place is tried once; returns how many
  // tokens were tried at all of them.
  int64_t Encode(absl::string_view piece, std::vector<int32_t>* ids) const;

 private:
  static constexpr uint32_t kNever = MergeTable::kNoMerge;

  // Moments are ranks of merges plus one; 0 is the start.
  struct alignas(32) Token {
    uint32_t made = kNever;            // 0 for a byte
    int32_t left = -1;                 // what it is made of; -1 for a byte
    int32_t right = -1;                //
    uint32_t first_as_left = kNever;   // the earliest merge that has it on the left, on the right
    uint32_t first_as_right = kNever;  //
    int32_t shorter = -1;              // longest other token that it starts with
    int32_t size = 0;                  // bytes
    bool reachable = false;
  };

  // Which pairs may merge, in two bits each of a table that stays in the second-level cache: most
  // pairs that are asked about do not, and the merge table itself is too large for the caches.
  class PairFilter {
   public:
    PairFilter() : words_(size_t{1} << kLogWords) {}
    void Add(int32_t left, int32_t right) {
      const uint64_t hash = Hash(left, right);
      words_[hash >> (64 - kLogWords)] |= Bits(hash);
    }
    bool MayHave(int32_t left, int32_t right) const {
      const uint64_t hash = Hash(left, right);
      return (~words_[hash >> (64 - kLogWords)] & Bits(hash)) == 0;
    }

   private:
    static constexpr int kLogWords = 15;
    static uint64_t Hash(int32_t left, int32_t right) {
      const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
      const uint64_t mixed = (key ^ key >> 29) * 0x9E3779B97F4A7C15u;
      return (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93u;
    }
    static uint64_t Bits(uint64_t hash) {
      return uint64_t{1} << (hash & 63) | uint64_t{1} << (hash >> 6 & 63);
    }
    std::vector<uint64_t> words_;
  };

  explicit DirectBpe(const MergeTable& merges) : merges_(merges) {}
  bool AddMerges(std::vector<Vocab::Merge> merges);
  // Whether no merge joins the last part of `left` and the first part of `right` before the moment
  // when those become part of something else anyway: `left` itself at left_until, and so on.
  bool StayApart(int32_t left, int32_t right, uint32_t left_until, uint32_t right_until) const;

  const MergeTable& merges_;
  PairFilter filter_;
  std::vector<Token> tokens_;
  std::unique_ptr<TokenTrie> trie_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_DIRECT_BPE_H_
