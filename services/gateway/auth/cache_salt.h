#ifndef QWENSERVE_SERVICES_GATEWAY_AUTH_CACHE_SALT_H_
#define QWENSERVE_SERVICES_GATEWAY_AUTH_CACHE_SALT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// Names whose cached prompts a request may share: those of the same tenant and the same salt of the
// client's own. Without the secret nobody, the client included, can make another tenant's name.
// All gateways need the same secret, or a tenant shares nothing between them.
class CacheSalt {
 public:
  // `secret`: may be random for each process.
  explicit CacheSalt(std::string secret) : secret_(std::move(secret)) {}
  // Without the white space around it; INVALID_ARGUMENT below 16 bytes.
  static absl::StatusOr<CacheSalt> FromFile(const std::string& path);

  // 64 hexadecimal digits: HMAC-SHA256 of tenant and salt, kept apart by the tenant's length.
  std::string Make(absl::string_view tenant, absl::string_view client_salt) const;

 private:
  std::string secret_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_AUTH_CACHE_SALT_H_
