#ifndef QWENSERVE_ENGINE_TOKENIZER_VOCAB_H_
#define QWENSERVE_ENGINE_TOKENIZER_VOCAB_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// Ids above this are refused: no Qwen vocabulary has a tenth of it, and tables are sized by the
// highest id.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 22) - 1;

// So are longer tokens; the longest of Qwen's has 128 bytes.
inline constexpr size_t kMaxTokenBytes = 1024;

// What a tokenizer file says, checked. Two formats, one meaning: `merges` in order of priority.
struct Vocab {
  enum class Kind : uint8_t { kNone, kRegular, kAdded, kControl };

  struct Merge {
    int32_t left;
    int32_t right;
    int32_t result;
    uint32_t rank;  // lower goes first
  };

  std::vector<std::string> tokens;  // bytes by id; empty where the numbering has a hole
  std::vector<Kind> kinds;          // by id
  std::vector<Merge> merges;
  absl::flat_hash_map<std::string, int32_t> added;  // spelling -> id of kAdded and kControl
  // A piece that is a token is that token, even where merges lead elsewhere: always so in
  // tiktoken files, and in tokenizer.json with "ignore_merges".
  bool whole_pieces_first = false;

  // Puts a token in; INVALID_ARGUMENT for an id out of range or taken by another spelling, and for
  // an empty or too long one.
  absl::Status Add(int64_t id, absl::string_view bytes, Kind kind);

  // Hex SHA-256 over all of the above.
  std::string Hash() const;
};

// `qwen.tiktoken` at `path`: lines "base64 rank", any line ends; then the lines of `extra_path`
// (empty: none), whose ranks go on behind Qwen1's control tokens. Errors name the file and line.
absl::StatusOr<Vocab> ReadTiktokenVocab(const std::string& path, const std::string& extra_path);

// `tokenizer.json` at `path`. UNIMPLEMENTED, naming the member, when the file asks for anything
// other than what Qwen's do: NFC, the split rule of pretokenizer.h, byte-level BPE.
absl::StatusOr<Vocab> ReadJsonVocab(const std::string& path);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_VOCAB_H_
