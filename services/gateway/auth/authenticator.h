#ifndef QWENSERVE_SERVICES_GATEWAY_AUTH_AUTHENTICATOR_H_
#define QWENSERVE_SERVICES_GATEWAY_AUTH_AUTHENTICATOR_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace qwenserve {

// What one API key may do. Limits hold per gateway, 0 = none.
struct KeyGrant {
  // Never the key: hex SHA-256 of it.
  std::string sha256;
  // Whom usage is counted for, and whose cached prompts it shares.
  std::string tenant;
  std::vector<std::string> models;  // empty: every one
  int64_t requests_per_minute = 0;
  int64_t tokens_per_minute = 0;  // prompt and answer
  int64_t concurrent_requests = 0;
  int32_t priority_max = 0;
  absl::Time expires = absl::InfiniteFuture();

  bool MayUse(const std::string& model) const {
    return models.empty() || std::find(models.begin(), models.end(), model) != models.end();
  }
};

// Who makes a request, as the gateway itself has found out.
struct Caller {
  // Not OK: the credentials are not good. Nothing may be done for the request but to refuse it so.
  absl::Status refusal;
  std::shared_ptr<const KeyGrant> grant;  // null: no keys are configured
  std::string peer;                       // IP address, behind trusted proxies the one they tell
  std::string traceparent;                // W3C, checked; empty: none

  const std::string& tenant() const {
    static const std::string kNone;
    return grant == nullptr ? kNone : grant->tenant;
  }
  bool MayUse(const std::string& model) const { return grant == nullptr || grant->MayUse(model); }
};

// The check of credentials, the same on every path of both protocols. Thread-safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // `authorization`: the value of that header, empty when there is none. UNAUTHENTICATED without
  // saying how near the key was. A null grant: keys are not asked for.
  virtual absl::StatusOr<std::shared_ptr<const KeyGrant>> Check(
      absl::string_view authorization) const = 0;
};

// No keys: everyone may call.
class OpenDoor final : public Authenticator {
 public:
  absl::StatusOr<std::shared_ptr<const KeyGrant>> Check(absl::string_view) const override {
    return std::shared_ptr<const KeyGrant>();
  }
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_AUTH_AUTHENTICATOR_H_
