#include "engine/tokenizer/unicode.h"

#include <utf8proc.h>

#include <map>

namespace qwenserve {
namespace {

// White_Space of PropList.txt: what \s means in the regex engines that define the split rule.
// utf8proc has only the categories, which differ (U+0085 and the ASCII controls are Cc).
bool IsSpace(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

CharClass Classify(char32_t code) {
  if (code == '\r' || code == '\n') return CharClass::kNewline;
  if (IsSpace(code)) return CharClass::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    default:
      return CharClass::kOther;
  }
}

constexpr char32_t kHangulFirst = 0xAC00;
constexpr char32_t kHangulLast = 0xD7A3;

// utf8proc does not expose the quick-check property, so it is derived: a code point is no
// boundary when it has a combining class, when NFC changes it, or when it stands behind the first
// place in the decomposition of one that NFC keeps (so that it can join what is before it).
void FindNfcBoundaries(std::vector<bool>* boundary) {
  for (char32_t code = 0x80; code < boundary->size(); ++code) {
    const auto scalar = static_cast<utf8proc_int32_t>(code);
    if (!utf8proc_codepoint_valid(scalar)) continue;
    if (utf8proc_get_property(scalar)->combining_class != 0) (*boundary)[code] = false;
    if (code >= kHangulFirst && code <= kHangulLast) continue;
    std::array<utf8proc_int32_t, 32> parts;
    int last_boundclass = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(scalar, parts.data(), parts.size(),
                                                           UTF8PROC_DECOMPOSE, &last_boundclass);
    if (count == 1 && parts[0] == scalar) continue;
    std::array<utf8proc_int32_t, 32> composed = parts;
    const utf8proc_ssize_t length = utf8proc_normalize_utf32(
        composed.data(), count, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (length != 1 || composed[0] != scalar) {
      (*boundary)[code] = false;
    } else {
      for (utf8proc_ssize_t i = 1; i < count; ++i) (*boundary)[parts[i]] = false;
    }
  }
  // Vowels and final consonants of Hangul join algorithmically.
  for (char32_t code = 0x1161; code <= 0x1175; ++code) (*boundary)[code] = false;
  for (char32_t code = 0x11A8; code <= 0x11C2; ++code) (*boundary)[code] = false;
}

}  // namespace

Utf8Step ReadUtf8(const char* p, const char* end) {
  const auto* s = reinterpret_cast<const unsigned char*>(p);
  const unsigned char lead = s[0];
  if (lead < 0x80) return {Utf8Step::Kind::kValid, 1, lead};
  int size = 0;
  unsigned char low = 0x80, high = 0xBF;  // allowed range of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) {
    size = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    size = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    size = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Utf8Step::Kind::kInvalid, 1, 0};
  }
  char32_t code = lead & (0x7Fu >> size);
  for (int i = 1; i < size; ++i) {
    if (end - p == i) return {Utf8Step::Kind::kTruncated, i, 0};
    if (s[i] < low || s[i] > high) return {Utf8Step::Kind::kInvalid, i, 0};
    code = code << 6 | (s[i] & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::Kind::kValid, size, code};
}

void AppendUtf8(char32_t code, std::string* text) {
  std::array<utf8proc_uint8_t, 4> bytes;
  const utf8proc_ssize_t size =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes.data());
  text->append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(size));
}

const UnicodeTable& UnicodeTable::Get() {
  static const UnicodeTable* const table = new UnicodeTable();
  return *table;
}

UnicodeTable::UnicodeTable() {
  std::vector<bool> boundary(kCodePoints, true);
  FindNfcBoundaries(&boundary);
  std::map<std::vector<uint8_t>, uint16_t> known;
  for (size_t block = 0; block < block_of_.size(); ++block) {
    std::vector<uint8_t> flags(kBlock);
    for (size_t i = 0; i < kBlock; ++i) {
      const char32_t code = static_cast<char32_t>(block * kBlock + i);
      flags[i] = static_cast<uint8_t>(Classify(code)) | (boundary[code] ? kNfcBoundary : 0);
    }
    const auto [it, inserted] = known.try_emplace(flags, static_cast<uint16_t>(known.size()));
    if (inserted) blocks_.insert(blocks_.end(), flags.begin(), flags.end());
    block_of_[block] = it->second;
  }
}

}  // namespace qwenserve
