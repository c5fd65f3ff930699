#ifndef QWENSERVE_ENGINE_TOKENIZER_UNICODE_H_
#define QWENSERVE_ENGINE_TOKENIZER_UNICODE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace qwenserve {

// What the split rule of pretokenizer.h asks of a code point: \p{L}, \p{N}, [\r\n], the rest of
// \s, everything else.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace, kNewline };

// One step of reading UTF-8 as Unicode table 3-7 defines it.
struct Utf8Step {
  enum class Kind : uint8_t {
    kValid,
    kInvalid,    // `size` bytes can never start a character: one U+FFFD stands for them
    kTruncated,  // the text ends inside a character: all that is left, 1 to 3 bytes
  };
  Kind kind;
  int size;
  char32_t code;  // of a valid character
};

// Requires p < end.
Utf8Step ReadUtf8(const char* p, const char* end);

// As ReadUtf8 for text known to be valid; advances *p.
inline char32_t ReadValidUtf8(const char** p) {
  const auto* s = reinterpret_cast<const unsigned char*>(*p);
  if (s[0] < 0x80) {
    *p += 1;
    return s[0];
  }
  if (s[0] < 0xE0) {
    *p += 2;
    return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
  }
  if (s[0] < 0xF0) {
    *p += 3;
    return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
  }
  *p += 4;
  return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

void AppendUtf8(char32_t code, std::string* text);

// Properties of every code point in two small stages, which stay in the caches: utf8proc's own
// records are 24 bytes each. Built once from utf8proc, so its Unicode version is ours.
class UnicodeTable {
 public:
  static const UnicodeTable& Get();

  CharClass Class(char32_t code) const { return static_cast<CharClass>(Flags(code) & kClassMask); }

  // A starter that NFC never changes and that never joins what stands before it: text may be cut
  // in front of it and normalised in parts.
  bool IsNfcBoundary(char32_t code) const { return (Flags(code) & kNfcBoundary) != 0; }

 private:
  static constexpr uint8_t kClassMask = 7;
  static constexpr uint8_t kNfcBoundary = 8;
  static constexpr size_t kBlock = 128;
  static constexpr size_t kCodePoints = 0x110000;

  UnicodeTable();
  uint8_t Flags(char32_t code) const {
    return blocks_[block_of_[code / kBlock] * kBlock + code % kBlock];
  }

  std::array<uint16_t, kCodePoints / kBlock> block_of_;
  std::vector<uint8_t> blocks_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_UNICODE_H_
