#ifndef QWENSERVE_SERVICES_COMMON_TLS_GRPC_TLS_H_
#define QWENSERVE_SERVICES_COMMON_TLS_GRPC_TLS_H_

#include <memory>

#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "services/common/tls/tls_material.h"

namespace qwenserve {

// Credentials from certificates that may be replaced while they are used: what gRPC does about it
// shows within about two seconds, and open connections stay. `material` outlives them.

// With material.files().ca every client needs a certificate that it has signed.
std::shared_ptr<grpc::ServerCredentials> TlsServerCredentials(const TlsMaterial& material);

// Whom we connect to must have a certificate that `ca` has signed and one of `peer_names`. Its
// address is not compared: workers are found by numbers that no certificate has.
std::shared_ptr<grpc::ChannelCredentials> TlsClientCredentials(const TlsMaterial& material);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TLS_GRPC_TLS_H_
