#include "services/gateway/http/json_text.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/str_format.h"

namespace qwenserve {
namespace {

// Length of the UTF-8 character at the front of `text`, 0 when there is none.
size_t CharacterLength(absl::string_view text) {
  auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what is beyond Unicode.
  const uint8_t second = byte(1);
  if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
      (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) {
    return 0;
  }
  return length;
}

void AppendEscaped(char c, std::string* out) {
  switch (c) {
    case '"':
      *out += "\\\"";
      break;
    case '\\':
      *out += "\\\\";
      break;
    case '\n':
      *out += "\\n";
      break;
    case '\r':
      *out += "\\r";
      break;
    case '\t':
      *out += "\\t";
      break;
    default:
      absl::StrAppendFormat(out, "\\u%04x", static_cast<unsigned>(static_cast<uint8_t>(c)));
  }
}

}  // namespace

void AppendJsonString(absl::string_view text, std::string* out) {
  out->push_back('"');
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool plain = static_cast<uint8_t>(c) >= 0x20 && c != '"' && c != '\\' && c != 0x7f;
    if (plain) continue;
    out->append(text.data() + begin, i - begin);
    AppendEscaped(c, out);
    begin = i + 1;
  }
  out->append(text.data() + begin, text.size() - begin);
  out->push_back('"');
}

void AppendLogprob(float value, std::string* out) {
  // Nine digits give back the very float.
  absl::StrAppendFormat(out, "%.9g", std::isfinite(value) ? value : -9999.0f);
}

std::string ReplaceInvalidUtf8(absl::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const size_t length = CharacterLength(bytes);
    if (length == 0) {
      out += "\xEF\xBF\xBD";
    } else {
      out.append(bytes.data(), length);
    }
    bytes.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

bool IsValidUtf8(absl::string_view bytes) {
  while (!bytes.empty()) {
    const size_t length = CharacterLength(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

}  // namespace qwenserve
