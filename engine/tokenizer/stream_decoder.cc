#include "engine/tokenizer/stream_decoder.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/unicode.h"

namespace qwenserve {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// Moves complete characters from the front of *bytes to *text; what remains is the start of one.
void MoveComplete(std::string* bytes, std::string* text) {
  const char* p = bytes->data();
  const char* const end = p + bytes->size();
  while (p != end) {
    const Utf8Step step = ReadUtf8(p, end);
    if (step.kind == Utf8Step::Kind::kTruncated) break;
    if (step.kind == Utf8Step::Kind::kValid) {
      text->append(p, static_cast<size_t>(step.size));
    } else {
      text->append(kReplacement);
    }
    p += step.size;
  }
  bytes->erase(0, static_cast<size_t>(p - bytes->data()));
}

bool IsStartOfCharacter(const std::string& bytes) {
  const Utf8Step step = ReadUtf8(bytes.data(), bytes.data() + bytes.size());
  return step.kind == Utf8Step::Kind::kTruncated && step.size == static_cast<int>(bytes.size());
}

}  // namespace

absl::StatusOr<DecodeResult> DecodeStep(const Tokenizer& tokenizer, const DecodeItem& item) {
  if (!item.pending.empty() && !IsStartOfCharacter(item.pending)) {
    return absl::InvalidArgumentError(absl::StrCat("pending: the ", item.pending.size(),
                                                   " bytes \"",
                                                   absl::CHexEscape(item.pending.substr(0, 8)),
                                                   "\" are not the start of one UTF-8 character"));
  }
  DecodeResult result;
  result.pending = item.pending;
  result.lengths.reserve(item.ids.size());
  for (const int32_t id : item.ids) {
    if (item.keep_special || !tokenizer.IsSpecial(id)) {
      const absl::string_view bytes = tokenizer.TokenBytes(id);
      result.pending.append(bytes.data(), bytes.size());
      MoveComplete(&result.pending, &result.text);
    }
    result.lengths.push_back(result.text.size());
  }
  if (item.flush && !result.pending.empty()) {
    result.pending.clear();
    result.text.append(kReplacement);
    if (!result.lengths.empty()) result.lengths.back() = result.text.size();
  }
  return result;
}

}  // namespace qwenserve
