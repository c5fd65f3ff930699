#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HOST_POLICY_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HOST_POLICY_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/gateway/http/http_message.h"

namespace qwenserve {

// Keeps web pages from reaching a gateway that asks for no key through the browsers of people who
// can reach it. To a browser a page is of the gateway's own origin when its name has been made to
// point at the gateway (DNS rebinding); but the browser tells that name, as `Host`.
//
//   listening on      Host                                      Origin, where one is sent
//   loopback          localhost, a loopback address or allowed  that of Host, or an allowed one
//   other addresses   any, since nobody knows what names lead   the same
//                     here; with allowed hosts as above
//
// With keys and without allowed hosts nothing is checked: no page of others has a key. Immutable.
class HostPolicy {
 public:
  struct Options {
    // Names or addresses without a port; `.example.org` stands for all names that end so, "*" alone
    // turns all checks off. Where the gateway listens needs no entry.
    std::vector<std::string> allowed_hosts;
    std::vector<std::string> allowed_origins;  // "*": all
    std::string listen;                        // numeric HOST:PORT
    bool loopback = false;                     // `listen` is
    bool keys = false;
  };

  // Checks nothing.
  HostPolicy() = default;
  // INVALID_ARGUMENT names an entry that is no host.
  static absl::StatusOr<HostPolicy> Make(Options options);

  // The refusal that the request deserves: 421 for its Host, 403 for its Origin.
  std::optional<HttpResponse> Check(const HttpRequest& request) const;

 private:
  bool AllowsHost(absl::string_view host) const;
  bool AllowsOrigin(absl::string_view origin, absl::string_view host) const;

  Options options_;
  bool check_host_ = false;
  bool check_origin_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HOST_POLICY_H_
