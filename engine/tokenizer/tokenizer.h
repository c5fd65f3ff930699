#ifndef QWENSERVE_ENGINE_TOKENIZER_TOKENIZER_H_
#define QWENSERVE_ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

class Bpe;
struct Vocab;

// Text to token ids and back for one checkpoint: NFC, the Qwen split rule, byte-level BPE.
// Immutable after Load, so any number of threads may use one object.
class Tokenizer {
 public:
  // Reads `tokenizer.json` of `model_dir` or, when there is none, `qwen.tiktoken` (with the
  // `extra_vocab_file` that its tokenizer_config.json may name). NOT_FOUND when the folder has
  // neither, INVALID_ARGUMENT for a malformed file, UNIMPLEMENTED for a tokenizer.json of another
  // family; the message names the file and what is wrong in it.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Ids of plain text. Never yields the id of an added token, whatever the text contains: only
  // chat templates place those (see chat_template.h). Time is near linear in the length for any
  // text. INVALID_ARGUMENT with the byte offset when `text` is not valid UTF-8.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const;

  // The id of the added token spelled exactly `text` (`<|im_end|>`, `<tool_call>`, ...), control
  // or not.
  std::optional<int32_t> SpecialTokenId(absl::string_view text) const;

  // True for control tokens, which decoding drops. An added token that the checkpoint declares
  // special=false (`<tool_call>`, `<think>`) is part of the answer's text, so it is not special.
  bool IsSpecial(int32_t id) const;

  // False for negative ids, ids >= vocab_size() and holes in the numbering. A model's embedding
  // may have more rows than this: the rest is padding.
  bool HasToken(int32_t id) const { return !TokenBytes(id).empty(); }

  // What `id` stands for: raw bytes, not always valid UTF-8 by themselves; the spelling of an
  // added token. Empty when there is no such token.
  absl::string_view TokenBytes(int32_t id) const;

  // Highest id plus one.
  int32_t vocab_size() const;

  // Hex SHA-256 over vocabulary, merges and added tokens. Two workers with equal hashes give the
  // same ids for the same text.
  const std::string& hash() const;

 private:
  Tokenizer(std::unique_ptr<const Vocab> vocab, std::unique_ptr<const Bpe> bpe, std::string hash);

  std::unique_ptr<const Vocab> vocab_;
  std::unique_ptr<const Bpe> bpe_;
  std::string hash_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_TOKENIZER_H_
