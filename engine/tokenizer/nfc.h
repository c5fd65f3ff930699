#ifndef QWENSERVE_ENGINE_TOKENIZER_NFC_H_
#define QWENSERVE_ENGINE_TOKENIZER_NFC_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// Unicode Normalisation Form C (UAX #15). The result is `text` itself when that is in the form
// already, else a view of `*storage`. O(n log n) for any text, runs of a million combining marks
// included. INVALID_ARGUMENT with the byte offset when `text` is not valid UTF-8.
absl::StatusOr<absl::string_view> ToNfc(absl::string_view text, std::string* storage);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_NFC_H_
