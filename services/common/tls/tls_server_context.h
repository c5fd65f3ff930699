#ifndef QWENSERVE_SERVICES_COMMON_TLS_TLS_SERVER_CONTEXT_H_
#define QWENSERVE_SERVICES_COMMON_TLS_TLS_SERVER_CONTEXT_H_

#include <openssl/ssl.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/tls/tls_material.h"

namespace qwenserve {

struct SslFreer {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using SslHandle = std::unique_ptr<SSL, SslFreer>;

// OpenSSL's server side for connections that are not gRPC's: TLS 1.2 and 1.3, one protocol by ALPN,
// no renegotiation, no resumption (a session would outlive the authorities that let it in).
// Thread-safe.
class TlsServerContext {
 public:
  // `protocol`: of ALPN, such as http/1.1; a client that offers only others is refused. `material`
  // outlives this. INVALID_ARGUMENT when OpenSSL does not take the certificates.
  static absl::StatusOr<std::unique_ptr<TlsServerContext>> Create(const TlsMaterial& material,
                                                                  const std::string& protocol);

  // For one connection, with the certificates as they are now; null without memory. What is already
  // connected keeps those it began with.
  SslHandle NewConnection();

  // After the handshake: the client has one of the names that are asked for, if any are.
  bool Admits(const SSL* ssl) const;

 private:
  struct ContextFreer {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  };
  using Context = std::unique_ptr<SSL_CTX, ContextFreer>;

  TlsServerContext(const TlsMaterial& material, const std::string& protocol);
  absl::StatusOr<Context> Make() const;

  const TlsMaterial& material_;
  const std::string alpn_;  // length and name, as on the wire
  absl::Mutex mutex_;
  Context context_ ABSL_GUARDED_BY(mutex_);
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TLS_TLS_SERVER_CONTEXT_H_
