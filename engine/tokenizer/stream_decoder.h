#ifndef QWENSERVE_ENGINE_TOKENIZER_STREAM_DECODER_H_
#define QWENSERVE_ENGINE_TOKENIZER_STREAM_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace qwenserve {

// Ids to text, a few ids at a time. A token may end in the middle of a character, so the bytes of
// an unfinished one (at most 3) are handed back and come in again with the next ids: all state is
// in these values, none in the decoder, and any worker can continue any stream.

struct DecodeItem {
  std::vector<int32_t> ids{};
  std::string pending{};      // `pending` of the previous result; empty at the start
  bool flush = false;         // no ids will follow: an unfinished character becomes U+FFFD
  bool keep_special = false;  // spell control tokens out instead of dropping them
};

struct DecodeResult {
  std::string text;     // valid UTF-8; wrong sequences are U+FFFD as in Python's errors="replace"
  std::string pending;  // <= 3 bytes, the start of a character; empty after a flush
  // lengths[i]: bytes of `text` known once ids[0..i] are consumed. The last one includes what a
  // flush adds.
  std::vector<size_t> lengths;
};

// The texts of all steps, concatenated, equal decoding all ids at once with a flush. Ids that
// the tokenizer does not have (padding rows of an embedding) add nothing; check ids that come
// from clients with Tokenizer::HasToken. INVALID_ARGUMENT when `item.pending` is not something
// that an earlier result can have held.
absl::StatusOr<DecodeResult> DecodeStep(const Tokenizer& tokenizer, const DecodeItem& item);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_STREAM_DECODER_H_
