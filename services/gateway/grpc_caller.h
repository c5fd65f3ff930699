#ifndef QWENSERVE_SERVICES_GATEWAY_GRPC_CALLER_H_
#define QWENSERVE_SERVICES_GATEWAY_GRPC_CALLER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"
#include "services/gateway/authenticator.h"

namespace qwenserve {

// Who makes a call over gRPC: from its `authorization` and `traceparent`, and from its connection.
// More than one `authorization` is as none.
Caller FindCaller(const grpc::ServerContextBase& context, const Authenticator& authenticator);

// The IP address in gRPC's name of a peer, such as `ipv4:10.0.0.1:4711` or
// `ipv6:%5B2001:db8::1%5D:4711`; the whole name when there is none in it.
std::string AddressOfPeer(absl::string_view peer);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GRPC_CALLER_H_
