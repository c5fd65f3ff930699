#ifndef QWENSERVE_SERVICES_GATEWAY_GRPC_GRPC_CALLER_H_
#define QWENSERVE_SERVICES_GATEWAY_GRPC_GRPC_CALLER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"
#include "services/common/net/proxied_peers.h"
#include "services/gateway/auth/authenticator.h"

namespace qwenserve {

// Who makes a call over gRPC: from its `authorization` and `traceparent`, and from its connection.
// More than one `authorization` is as none. Null `proxied`: no proxy speaks for others.
Caller FindCaller(const grpc::ServerContextBase& context, const Authenticator& authenticator,
                  const ProxiedPeers* proxied);

// The IP address in gRPC's name of a peer, such as `ipv4:10.0.0.1:4711` or
// `ipv6:%5B2001:db8::1%5D:4711`; the whole name when there is none in it.
std::string AddressOfPeer(absl::string_view peer);

// The same with its port, as ProxiedPeers has it: `10.0.0.1:4711`, `[2001:db8::1]:4711`.
std::string SocketOfPeer(absl::string_view peer);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GRPC_GRPC_CALLER_H_
