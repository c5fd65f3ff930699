#include "engine/tokenizer/python_json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// repr(float): the shortest digits that read back the same; an exponent below -4 and from 16 on.
std::string PythonFloat(double value) {
  if (value == 0) return std::signbit(value) ? "-0.0" : "0.0";
  std::array<char, 32> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  std::string text(buffer.data(), end.ptr);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  // Two digits of exponent at least is what both languages write.
  if (exponent < -4 || exponent >= 16) return text;
  const bool negative = text[0] == '-';
  std::string digits = text.substr(negative ? 1 : 0, e - (negative ? 1 : 0));
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  const char* sign = negative ? "-" : "";
  if (exponent < 0) {
    return absl::StrCat(sign, "0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  }
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    return absl::StrCat(sign, digits, std::string(whole - digits.size(), '0'), ".0");
  }
  return absl::StrCat(sign, digits.substr(0, whole), ".", digits.substr(whole));
}

// The reader caps the nesting at 64, and so the recursion.
void Append(const Json& value, std::string* out) {
  if (value.is_object()) {
    out->push_back('{');
    bool first = true;
    for (const auto& [key, member] : value.items()) {
      if (!first) out->append(", ");
      first = false;
      out->append(Json(key).dump());
      out->append(": ");
      Append(member, out);
    }
    out->push_back('}');
  } else if (value.is_array()) {
    out->push_back('[');
    for (size_t i = 0; i < value.size(); ++i) {
      if (i != 0) out->append(", ");
      Append(value[i], out);
    }
    out->push_back(']');
  } else if (value.is_number_float()) {
    out->append(PythonFloat(value.get<double>()));
  } else {
    out->append(value.dump());  // strings, integers and names are spelled alike
  }
}

}  // namespace

std::string ToPythonJson(const Json& value) {
  std::string text;
  Append(value, &text);
  return text;
}

}  // namespace qwenserve
