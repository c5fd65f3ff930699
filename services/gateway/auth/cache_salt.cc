#include "services/gateway/auth/cache_salt.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/digest.h"
#include "services/common/watched_files.h"

namespace qwenserve {
namespace {

constexpr size_t kMinSecretBytes = 16;
constexpr size_t kMaxSecretBytes = 4096;

}  // namespace

absl::StatusOr<CacheSalt> CacheSalt::FromFile(const std::string& path) {
  QS_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxSecretBytes));
  const absl::string_view secret = absl::StripAsciiWhitespace(text);
  if (secret.size() < kMinSecretBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": a secret has at least ", kMinSecretBytes, " bytes, here are ", secret.size()));
  }
  return CacheSalt(std::string(secret));
}

std::string CacheSalt::Make(absl::string_view tenant, absl::string_view client_salt) const {
  return ToHex(HmacSha256(secret_, absl::StrCat(tenant.size(), ":", tenant, client_salt)));
}

}  // namespace qwenserve
