#include "services/gateway/auth/key_file.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxTenantBytes = 128;

absl::Status Wrong(absl::string_view member, absl::string_view need) {
  return absl::InvalidArgumentError(absl::StrCat(member, ": must be ", need));
}

absl::Status ReadCount(absl::string_view name, const Json& value, int64_t max, int64_t* target) {
  const bool fits =
      value.is_number_integer() &&
      !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(max)) &&
      value.get<int64_t>() >= 0 && value.get<int64_t>() <= max;
  if (!fits) return Wrong(name, absl::StrCat("an integer of 0 to ", max));
  *target = value.get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadLimits(const Json& limits, KeyGrant* grant) {
  if (!limits.is_object()) return Wrong("limits", "an object");
  constexpr int64_t kMax = int64_t{1} << 53;
  for (const auto& [name, value] : limits.items()) {
    int64_t* target = name == "requests_per_minute"   ? &grant->requests_per_minute
                      : name == "tokens_per_minute"   ? &grant->tokens_per_minute
                      : name == "concurrent_requests" ? &grant->concurrent_requests
                                                      : nullptr;
    const std::string path = absl::StrCat("limits.", ShownText(name));
    if (target == nullptr) return absl::InvalidArgumentError(path + ": there is no such limit");
    QS_RETURN_IF_ERROR(ReadCount(path, value, kMax, target));
  }
  return absl::OkStatus();
}

absl::Status ReadModels(const Json& models, KeyGrant* grant) {
  if (!models.is_array()) return Wrong("models", "an array of names");
  for (const Json& model : models) {
    if (!model.is_string() || model.get_ref<const std::string&>().empty()) {
      return Wrong("models", "an array of names");
    }
    grant->models.push_back(model.get<std::string>());
  }
  // Every one is the absence of the member; none at all is not worth a key.
  if (grant->models.empty()) return Wrong("models", "left out, or not empty");
  return absl::OkStatus();
}

absl::Status ReadText(const std::string& name, const Json& value, KeyGrant* grant) {
  if (!value.is_string()) return Wrong(name, "a string");
  const auto& text = value.get_ref<const std::string&>();
  if (name == "sha256") {
    const bool hex = text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
                       return absl::ascii_isxdigit(static_cast<unsigned char>(c));
                     });
    // Never shown: it might be the key itself, put there by mistake.
    if (!hex) return Wrong(name, "64 hexadecimal digits, the SHA-256 of the key");
    grant->sha256 = absl::AsciiStrToLower(text);
  } else if (name == "tenant") {
    // It goes into the access log as it is.
    const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
             c == '-' || c == ':' || c == '@';
    });
    if (text.empty() || text.size() > kMaxTenantBytes || !plain) {
      return Wrong(name, "1 to 128 letters, digits and . _ - : @");
    }
    grant->tenant = text;
  } else if (!absl::ParseTime(absl::RFC3339_full, text, &grant->expires, nullptr)) {
    return Wrong(name, "a time such as 2031-01-01T00:00:00Z");
  }
  return absl::OkStatus();
}

absl::StatusOr<KeyGrant> ParseLine(absl::string_view line) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseJson(line, "key"));
  if (!json.is_object()) return absl::InvalidArgumentError("must be a JSON object");
  KeyGrant grant;
  for (const auto& [name, value] : json.items()) {
    if (name == "sha256" || name == "tenant" || name == "expires") {
      QS_RETURN_IF_ERROR(ReadText(name, value, &grant));
    } else if (name == "models") {
      QS_RETURN_IF_ERROR(ReadModels(value, &grant));
    } else if (name == "limits") {
      QS_RETURN_IF_ERROR(ReadLimits(value, &grant));
    } else if (name == "priority_max") {
      int64_t priority = 0;
      QS_RETURN_IF_ERROR(ReadCount(name, value, std::numeric_limits<int32_t>::max(), &priority));
      grant.priority_max = static_cast<int32_t>(priority);
    } else {
      return absl::InvalidArgumentError(absl::StrCat(ShownText(name), ": there is no such member"));
    }
  }
  if (grant.sha256.empty()) return absl::InvalidArgumentError("sha256: is needed");
  if (grant.tenant.empty()) return absl::InvalidArgumentError("tenant: is needed");
  return grant;
}

}  // namespace

absl::StatusOr<std::vector<std::shared_ptr<const KeyGrant>>> ParseKeyFile(
    absl::string_view text, absl::string_view source) {
  std::vector<std::shared_ptr<const KeyGrant>> grants;
  std::set<std::string> digests;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    absl::StatusOr<KeyGrant> grant = ParseLine(line);
    absl::Status status = grant.status();
    if (status.ok() && !digests.insert(grant->sha256).second) {
      status = absl::InvalidArgumentError("sha256: occurs in a line before, too");
    }
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ", line ", number, ": ", status.message()));
    }
    grants.push_back(std::make_shared<const KeyGrant>(*std::move(grant)));
  }
  if (grants.empty()) return absl::InvalidArgumentError(absl::StrCat(source, ": has no key"));
  return grants;
}

}  // namespace qwenserve
