#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_JSON_FIELDS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_JSON_FIELDS_H_

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/json_reader.h"

namespace qwenserve {

// Typed access to an object of a client's request. Errors are INVALID_ARGUMENT with the path of
// the field and never a value, which may be content. A field that is null is a field that is not
// there, as OpenAI's clients mean it.
class JsonFields {
 public:
  // `path` of the object within the request, "" for the request itself.
  static absl::StatusOr<JsonFields> Of(const Json& value, std::string path);

  // Null when it is not there.
  const Json* Find(const char* key) const;
  bool Has(const char* key) const { return Find(key) != nullptr; }
  std::string PathOf(absl::string_view key) const;
  const Json& value() const { return *value_; }

  // Each leaves `out` alone when the field is not there; the bool says whether it was.
  absl::StatusOr<bool> Read(const char* key, bool* out) const;
  absl::StatusOr<bool> Read(const char* key, std::string* out) const;
  absl::StatusOr<bool> Read(const char* key, double* out) const;
  absl::StatusOr<bool> ReadInteger(const char* key, int64_t low, int64_t high, int64_t* out) const;
  // Null, or an array.
  absl::StatusOr<const Json*> ReadArray(const char* key) const;

 private:
  JsonFields(const Json* value, std::string path) : value_(value), path_(std::move(path)) {}

  const Json* value_;
  std::string path_;
};

// "`path`: must be `wanted`, is a string".
absl::Status WrongType(absl::string_view path, absl::string_view wanted, const Json& value);
// "`path`: is not supported", for a feature that would change the answer.
absl::Status NotSupported(absl::string_view path, absl::string_view why = "is not supported");

// The text of `value`, as an element of an array at `path`.
absl::StatusOr<std::string> StringAt(const Json& value, absl::string_view path);
absl::StatusOr<int64_t> IntegerAt(const Json& value, absl::string_view path, int64_t low,
                                  int64_t high);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_JSON_FIELDS_H_
