#include "services/gateway/grpc/grpc_caller.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "services/gateway/auth/caller.h"

namespace qwenserve {
namespace {

// Two values could be read differently here and by a proxy: then there is none.
absl::string_view OnlyValue(const grpc::ServerContextBase& context, const char* name) {
  const auto [begin, end] = context.client_metadata().equal_range(name);
  if (begin == end || std::next(begin) != end) return "";
  return absl::string_view(begin->second.data(), begin->second.size());
}

}  // namespace

std::string AddressOfPeer(absl::string_view peer) {
  absl::string_view rest = peer;
  if (absl::ConsumePrefix(&rest, "ipv6:")) {
    if (!absl::ConsumePrefix(&rest, "%5B") && !absl::ConsumePrefix(&rest, "[")) {
      return std::string(peer);
    }
    rest = rest.substr(0, rest.find(']'));
    return std::string(rest.substr(0, rest.find('%')));
  }
  if (absl::ConsumePrefix(&rest, "ipv4:")) return std::string(rest.substr(0, rest.rfind(':')));
  return std::string(peer);
}

std::string SocketOfPeer(absl::string_view peer) {
  absl::string_view rest = peer;
  if (!absl::ConsumePrefix(&rest, "ipv4:") && !absl::ConsumePrefix(&rest, "ipv6:")) return "";
  return absl::StrReplaceAll(rest, {{"%5B", "["}, {"%5D", "]"}});
}

Caller FindCaller(const grpc::ServerContextBase& context, const Authenticator& authenticator,
                  const ProxiedPeers* proxied) {
  const std::string peer = context.peer();
  std::string address = proxied == nullptr ? "" : proxied->Find(SocketOfPeer(peer));
  if (address.empty()) address = AddressOfPeer(peer);
  return MakeCaller(authenticator, OnlyValue(context, "authorization"), std::move(address),
                    OnlyValue(context, "traceparent"));
}

}  // namespace qwenserve
