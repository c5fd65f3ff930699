#ifndef QWENSERVE_TOOLS_QWENCTL_TEXT_TOKENS_H_
#define QWENSERVE_TOOLS_QWENCTL_TEXT_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tokenizer/tokenizer.h"

namespace qwenserve {

// A text file that the user of the command line trusts, as the model's token ids. Other than in
// requests, names of control tokens such as <|im_start|> in the text stand for these tokens, so
// that a file may hold whole rendered dialogues.
struct TextTokens {
  int64_t bytes = 0;
  std::vector<int32_t> ids;
};

// NOT_FOUND or INVALID_ARGUMENT naming the file: no text in it, not UTF-8.
absl::StatusOr<TextTokens> ReadTextTokens(const std::string& path, const Tokenizer& tokenizer);
absl::StatusOr<std::vector<int32_t>> EncodeWithControlTokens(absl::string_view text,
                                                             const Tokenizer& tokenizer);

// At most `count` pieces of `length` ids, evenly spread over `ids` and without overlap.
// INVALID_ARGUMENT with both numbers when not even one fits.
absl::StatusOr<std::vector<std::vector<int32_t>>> SpreadPieces(const std::vector<int32_t>& ids,
                                                               int64_t length, int64_t count);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_TEXT_TOKENS_H_
