#include "engine/tokenizer/pretokenizer.h"

#include "engine/tokenizer/unicode.h"

namespace qwenserve {
namespace {

struct Char {
  CharClass char_class;
  const char* next;
};

inline Char ReadChar(const UnicodeTable& table, const char* p) {
  const char32_t code = ReadValidUtf8(&p);
  return {table.Class(code), p};
}

const char* SkipClass(const UnicodeTable& table, CharClass wanted, const char* p, const char* end) {
  while (p != end) {
    const Char c = ReadChar(table, p);
    if (c.char_class != wanted) break;
    p = c.next;
  }
  return p;
}

inline char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// The first alternative of the rule, behind the apostrophe at `p`; nullptr when it does not match.
const char* ContractionEnd(const char* p, const char* end) {
  if (end - p < 2) return nullptr;
  const char first = Lower(p[1]);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 2;
  if (end - p < 3) return nullptr;
  const char second = Lower(p[2]);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
      (first == 'l' && second == 'l')) {
    return p + 3;
  }
  // U+017F, the long s, is the one character outside ASCII that folds to one of these letters.
  if (p[1] == '\xC5' && p[2] == '\xBF') return p + 3;
  return nullptr;
}

// \s*[\r\n]+ | \s+(?!\S) | \s+ at `p`, where white space starts.
const char* SpacesEnd(const UnicodeTable& table, const char* p, const char* end) {
  const char* after_newline = nullptr;
  const char* last = p;  // start of the last character of the run
  const char* run_end = p;
  while (run_end != end) {
    const Char c = ReadChar(table, run_end);
    if (c.char_class != CharClass::kSpace && c.char_class != CharClass::kNewline) break;
    last = run_end;
    run_end = c.next;
    if (c.char_class == CharClass::kNewline) after_newline = run_end;
  }
  if (after_newline != nullptr) return after_newline;
  // The look-ahead leaves the last space to the word behind it.
  if (run_end != end && last != p) return last;
  return run_end;
}

}  // namespace

const char* PieceEnd(const char* p, const char* end) {
  const UnicodeTable& table = UnicodeTable::Get();
  const Char first = ReadChar(table, p);
  if (first.char_class == CharClass::kLetter) {
    return SkipClass(table, CharClass::kLetter, first.next, end);
  }
  if (*p == '\'') {
    if (const char* contraction = ContractionEnd(p, end); contraction != nullptr) {
      return contraction;
    }
  }
  if (first.char_class == CharClass::kNumber) return first.next;
  const char* others = nullptr;  // end of [^\s\p{L}\p{N}]+ with its optional space
  if (first.char_class != CharClass::kNewline && first.next != end) {
    const Char second = ReadChar(table, first.next);
    if (second.char_class == CharClass::kLetter) {
      return SkipClass(table, CharClass::kLetter, second.next, end);
    }
    if (*p == ' ' && second.char_class == CharClass::kOther) others = second.next;
  }
  if (first.char_class == CharClass::kOther) others = first.next;
  if (others != nullptr) {
    others = SkipClass(table, CharClass::kOther, others, end);
    return SkipClass(table, CharClass::kNewline, others, end);
  }
  return SpacesEnd(table, p, end);
}

}  // namespace qwenserve
