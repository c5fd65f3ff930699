#ifndef QWENSERVE_ENGINE_TOKENIZER_PRETOKENIZER_H_
#define QWENSERVE_ENGINE_TOKENIZER_PRETOKENIZER_H_

#include "absl/strings/string_view.h"

namespace qwenserve {

// The split rule of every Qwen tokenizer, in the notation of tokenizer.json. The code below is
// written for this rule alone; a file that names another one is refused.
inline constexpr char kSplitPattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

// End of the piece that starts at `p`; the pieces of a text cover it without gaps. [p, end) is
// valid UTF-8 and not empty. A loop over all pieces is linear in the length of the text.
const char* PieceEnd(const char* p, const char* end);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_PRETOKENIZER_H_
