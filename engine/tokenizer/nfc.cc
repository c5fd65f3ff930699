#include "engine/tokenizer/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/unicode.h"

namespace qwenserve {
namespace {

absl::Status InvalidUtf8(size_t offset) {
  return absl::InvalidArgumentError(absl::StrCat("invalid UTF-8 at byte ", offset));
}

const char* SkipAscii(const char* p, const char* end) {
  constexpr uint64_t kHighBits = 0x8080808080808080u;
  while (end - p >= 8) {
    uint64_t word;
    std::memcpy(&word, p, sizeof(word));
    if ((word & kHighBits) != 0) break;
    p += 8;
  }
  while (p != end && static_cast<unsigned char>(*p) < 0x80) ++p;
  return p;
}

int CombiningClass(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Canonical ordering. utf8proc orders while it decomposes, by exchanging neighbours: quadratic in
// the length of a run of marks, hence a sort of our own.
void OrderMarks(std::vector<utf8proc_int32_t>* codes) {
  auto it = codes->begin();
  while (it != codes->end()) {
    if (CombiningClass(*it) == 0) {
      ++it;
      continue;
    }
    const auto run_end = std::find_if(
        it, codes->end(), [](utf8proc_int32_t code) { return CombiningClass(code) == 0; });
    std::stable_sort(it, run_end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
    it = run_end;
  }
}

// Appends the normal form of [p, end), which is valid UTF-8 and may be normalised by itself.
void AppendNormalised(const char* p, const char* end, std::string* out) {
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(static_cast<size_t>(end - p));
  while (p != end) {
    // The longest canonical decomposition has 4 code points.
    std::array<utf8proc_int32_t, 32> parts;
    int last_boundclass = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(ReadValidUtf8(&p)), parts.data(),
                                parts.size(), UTF8PROC_DECOMPOSE, &last_boundclass);
    codes.insert(codes.end(), parts.begin(), parts.begin() + count);
  }
  OrderMarks(&codes);
  const utf8proc_ssize_t length =
      utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    AppendUtf8(static_cast<char32_t>(codes[static_cast<size_t>(i)]), out);
  }
}

}  // namespace

absl::StatusOr<absl::string_view> ToNfc(absl::string_view text, std::string* storage) {
  const UnicodeTable& table = UnicodeTable::Get();
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* copied = begin;    // everything before is in *storage
  const char* previous = begin;  // start of the last character read
  storage->clear();
  for (const char* p = begin; p != end;) {
    const char* const ascii_end = SkipAscii(p, end);
    if (ascii_end != p) {
      previous = ascii_end - 1;
      p = ascii_end;
      continue;
    }
    Utf8Step step = ReadUtf8(p, end);
    if (step.kind != Utf8Step::Kind::kValid) return InvalidUtf8(static_cast<size_t>(p - begin));
    if (table.IsNfcBoundary(step.code)) {
      previous = p;
      p += step.size;
      continue;
    }
    // From the boundary before this character to the next one behind it.
    const char* span_end = p + step.size;
    while (span_end != end) {
      step = ReadUtf8(span_end, end);
      if (step.kind != Utf8Step::Kind::kValid) {
        return InvalidUtf8(static_cast<size_t>(span_end - begin));
      }
      if (table.IsNfcBoundary(step.code)) break;
      span_end += step.size;
    }
    storage->append(copied, previous);
    AppendNormalised(previous, span_end, storage);
    copied = previous = p = span_end;
  }
  if (copied == begin) return text;
  storage->append(copied, end);
  return absl::string_view(*storage);
}

}  // namespace qwenserve
