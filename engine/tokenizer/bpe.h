#ifndef QWENSERVE_ENGINE_TOKENIZER_BPE_H_
#define QWENSERVE_ENGINE_TOKENIZER_BPE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tokenizer/direct_bpe.h"
#include "engine/tokenizer/merge_table.h"
#include "engine/tokenizer/vocab.h"

namespace qwenserve {

// Byte-pair encoding of one piece of text: of all neighbours that may merge, the pair of lowest
// rank (the leftmost of equals) is joined, until none is left. Immutable, thread-safe.
class Bpe {
 public:
  // Steps taken, for tests that prove how the time grows.
  struct Work {
    int64_t tried = 0;  // by DirectBpe
    int64_t merges = 0;
    int64_t queue_pushes = 0;
  };

  // INVALID_ARGUMENT when `vocab` lacks the token of a byte or has a merge that yields an added
  // token. `vocab` must outlive the object.
  static absl::StatusOr<std::unique_ptr<Bpe>> Create(const Vocab& vocab);

  // Appends the ids of `piece`, which is not empty. O(n log n) in its length. `work` may be null.
  void Encode(absl::string_view piece, std::vector<int32_t>* ids, Work* work = nullptr) const;

 private:
  explicit Bpe(const Vocab& vocab);

  // As the rule says, for vocabularies that DirectBpe does not take.
  void Merge(absl::string_view piece, std::vector<int32_t>* ids, Work* work) const;

  std::array<int32_t, 256> byte_ids_;
  MergeTable merges_;
  std::unique_ptr<DirectBpe> direct_;  // or null
  // Tokens that a piece may be although merging its bytes gives others.
  absl::flat_hash_map<absl::string_view, int32_t> whole_pieces_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_BPE_H_
