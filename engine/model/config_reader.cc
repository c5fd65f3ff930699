#include "engine/model/config_reader.h"

#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {

const Json* ConfigReader::Find(absl::Span<const absl::string_view> names) const {
  for (const absl::string_view name : names) {
    const auto found = json_.find(std::string(name));
    if (found != json_.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

absl::StatusOr<int64_t> ConfigReader::Integer(absl::Span<const absl::string_view> names,
                                              int64_t min, int64_t max) const {
  const Json* value = Find(names);
  if (value == nullptr) return Invalid(names.front(), "is missing");
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() &&
                      value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()});
  if (!fits || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    return Invalid(names.front(), absl::StrCat("is ", ShownJson(*value),
                                               ", not a whole number from ", min, " to ", max));
  }
  return value->get<int64_t>();
}

absl::StatusOr<int64_t> ConfigReader::Integer(absl::Span<const absl::string_view> names,
                                              int64_t min, int64_t max, int64_t missing) const {
  return Find(names) == nullptr ? missing : Integer(names, min, max);
}

absl::StatusOr<double> ConfigReader::Number(absl::Span<const absl::string_view> names, double min,
                                            double max, double missing) const {
  const Json* value = Find(names);
  if (value == nullptr) return missing;
  const double number =
      value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (!(number >= min && number <= max)) {
    return Invalid(names.front(), absl::StrCat("is ", ShownJson(*value), ", not a number from ",
                                               min, " to ", max));
  }
  return number;
}

absl::StatusOr<std::optional<double>> ConfigReader::OptionalNumber(absl::string_view name,
                                                                   double min, double max) const {
  if (Find(name) == nullptr) return std::optional<double>();
  QS_ASSIGN_OR_RETURN(const double number, Number({&name, 1}, min, max, 0));
  return std::optional<double>(number);
}

absl::StatusOr<bool> ConfigReader::Bool(absl::string_view name, bool missing) const {
  const Json* value = Find(name);
  if (value == nullptr) return missing;
  if (!value->is_boolean()) {
    return Invalid(name, absl::StrCat("is ", ShownJson(*value), ", not true or false"));
  }
  return value->get<bool>();
}

absl::StatusOr<std::string> ConfigReader::String(absl::string_view name,
                                                 absl::string_view missing) const {
  const Json* value = Find(name);
  if (value == nullptr) return std::string(missing);
  if (!value->is_string())
    return Invalid(name, absl::StrCat("is ", ShownJson(*value), ", not a string"));
  return value->get<std::string>();
}

absl::Status ConfigReader::Invalid(absl::string_view field, absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(source_, ": \"", field, "\" ", what));
}

absl::Status ConfigReader::Unsupported(absl::string_view field, const Json& value,
                                       absl::string_view what) const {
  return absl::UnimplementedError(
      absl::StrCat(source_, ": \"", field, "\" is ", ShownJson(value), ": ", what));
}

}  // namespace qwenserve
