#include "services/gateway/http/json_fields.h"

#include <cmath>
#include <utility>

#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

absl::string_view NameOfType(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_string()) return "a string";
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  if (value.is_number_integer()) return "an integer";
  return "a number with a fraction";
}

absl::Status OutOfRange(absl::string_view path, int64_t low, int64_t high) {
  return InvalidField(path, absl::StrCat("must be in [", low, ", ", high, "]"));
}

// 1.0 is an integer too: some languages write no other numbers. Beyond 2^53 it need not be the one
// that was meant.
absl::StatusOr<int64_t> IntegerOf(double number, absl::string_view path, int64_t low,
                                  int64_t high) {
  if (number != std::trunc(number)) return WrongType(path, "an integer", Json(number));
  constexpr double kExact = 9007199254740992;
  if (std::abs(number) > kExact) return OutOfRange(path, low, high);
  const int64_t integer = static_cast<int64_t>(number);
  if (integer < low || integer > high) return OutOfRange(path, low, high);
  return integer;
}

}  // namespace

absl::Status WrongType(absl::string_view path, absl::string_view wanted, const Json& value) {
  return InvalidField(path, absl::StrCat("must be ", wanted, ", is ", NameOfType(value)));
}

absl::Status NotSupported(absl::string_view path, absl::string_view why) {
  return InvalidField(path, why);
}

absl::StatusOr<JsonFields> JsonFields::Of(const Json& value, std::string path) {
  if (!value.is_object()) return WrongType(path.empty() ? "body" : path, "an object", value);
  return JsonFields(&value, std::move(path));
}

const Json* JsonFields::Find(const char* key) const {
  const auto found = value_->find(key);
  if (found == value_->end() || found->is_null()) return nullptr;
  return &*found;
}

std::string JsonFields::PathOf(absl::string_view key) const {
  return path_.empty() ? std::string(key) : absl::StrCat(path_, ".", key);
}

absl::StatusOr<bool> JsonFields::Read(const char* key, bool* out) const {
  const Json* value = Find(key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) return WrongType(PathOf(key), "a boolean", *value);
  *out = value->get<bool>();
  return true;
}

absl::StatusOr<bool> JsonFields::Read(const char* key, std::string* out) const {
  const Json* value = Find(key);
  if (value == nullptr) return false;
  QS_ASSIGN_OR_RETURN(*out, StringAt(*value, PathOf(key)));
  return true;
}

absl::StatusOr<bool> JsonFields::Read(const char* key, double* out) const {
  const Json* value = Find(key);
  if (value == nullptr) return false;
  if (!value->is_number()) return WrongType(PathOf(key), "a number", *value);
  *out = value->get<double>();
  return true;
}

absl::StatusOr<bool> JsonFields::ReadInteger(const char* key, int64_t low, int64_t high,
                                             int64_t* out) const {
  const Json* value = Find(key);
  if (value == nullptr) return false;
  QS_ASSIGN_OR_RETURN(*out, IntegerAt(*value, PathOf(key), low, high));
  return true;
}

absl::StatusOr<const Json*> JsonFields::ReadArray(const char* key) const {
  const Json* value = Find(key);
  if (value != nullptr && !value->is_array()) return WrongType(PathOf(key), "an array", *value);
  return value;
}

absl::StatusOr<std::string> StringAt(const Json& value, absl::string_view path) {
  if (!value.is_string()) return WrongType(path, "a string", value);
  return value.get_ref<const std::string&>();
}

absl::StatusOr<int64_t> IntegerAt(const Json& value, absl::string_view path, int64_t low,
                                  int64_t high) {
  if (value.is_number_float()) return IntegerOf(value.get<double>(), path, low, high);
  if (!value.is_number_integer()) return WrongType(path, "an integer", value);
  // What is above the range of int64 is kept as unsigned.
  const bool above =
      value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const int64_t number = above ? 0 : value.get<int64_t>();
  if (above || number < low || number > high) return OutOfRange(path, low, high);
  return number;
}

}  // namespace qwenserve
