#ifndef QWENSERVE_ENGINE_MODEL_CONFIG_READER_H_
#define QWENSERVE_ENGINE_MODEL_CONFIG_READER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/json_reader.h"

namespace qwenserve {

// Typed, range-checked fields of one JSON object. A field that is null counts as missing. Errors
// are INVALID_ARGUMENT naming the source, the field and its value. Does not own the JSON.
class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string source) : json_(json), source_(std::move(source)) {}

  const std::string& source() const { return source_; }

  // Null when missing. With several names, the first that is there; the others are older spellings.
  const Json* Find(absl::Span<const absl::string_view> names) const;
  const Json* Find(absl::string_view name) const { return Find({&name, 1}); }

  // A whole number in [min, max].
  absl::StatusOr<int64_t> Integer(absl::Span<const absl::string_view> names, int64_t min,
                                  int64_t max) const;
  absl::StatusOr<int64_t> Integer(absl::Span<const absl::string_view> names, int64_t min,
                                  int64_t max, int64_t missing) const;
  // A finite number in [min, max].
  absl::StatusOr<double> Number(absl::Span<const absl::string_view> names, double min, double max,
                                double missing) const;
  absl::StatusOr<std::optional<double>> OptionalNumber(absl::string_view name, double min,
                                                       double max) const;
  absl::StatusOr<bool> Bool(absl::string_view name, bool missing) const;
  absl::StatusOr<std::string> String(absl::string_view name, absl::string_view missing) const;

  absl::Status Invalid(absl::string_view field, absl::string_view what) const;
  // For a feature that exists but is not built: "`field` is `value`: `what`".
  absl::Status Unsupported(absl::string_view field, const Json& value,
                           absl::string_view what) const;

 private:
  const Json& json_;
  std::string source_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_CONFIG_READER_H_
