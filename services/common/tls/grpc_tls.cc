#include "services/common/tls/grpc_tls.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_certificate_verifier.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace qwenserve {
namespace {

namespace tls = grpc::experimental;

constexpr unsigned kRefreshSeconds = 1;

// After the chain is verified: is it one of those that may talk to us?
class PeerNames final : public tls::ExternalCertificateVerifier {
 public:
  explicit PeerNames(std::vector<std::string> allowed) : allowed_(std::move(allowed)) {}

  bool Verify(tls::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* sync_status) override {
    *sync_status = grpc::Status::OK;
    if (allowed_.empty()) return true;
    auto known = [this](const grpc::string_ref& name) {
      return std::find(allowed_.begin(), allowed_.end(), std::string(name.data(), name.size())) !=
             allowed_.end();
    };
    const auto dns = request->dns_names(), uris = request->uri_names();
    if (!std::any_of(dns.begin(), dns.end(), known) &&
        !std::any_of(uris.begin(), uris.end(), known)) {
      *sync_status = grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                                  "the peer's certificate has none of the names allowed");
    }
    return true;
  }
  void Cancel(tls::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::vector<std::string> allowed_;
};

void Configure(const TlsMaterial& material, tls::TlsCredentialsOptions* options) {
  if (material.has_ca()) options->watch_root_certs();
  if (material.has_pair()) options->watch_identity_key_cert_pairs();
  options->set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<PeerNames>(material.files().peer_names));
  options->set_check_call_host(false);
}

std::shared_ptr<tls::FileWatcherCertificateProvider> Provider(const TlsMaterial& material) {
  return std::make_shared<tls::FileWatcherCertificateProvider>(
      material.pair_path(), material.pair_path(), material.ca_path(), kRefreshSeconds);
}

}  // namespace

std::shared_ptr<grpc::ServerCredentials> TlsServerCredentials(const TlsMaterial& material) {
  tls::TlsServerCredentialsOptions options(Provider(material));
  Configure(material, &options);
  options.set_cert_request_type(material.has_ca()
                                    ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                    : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  return tls::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> TlsClientCredentials(const TlsMaterial& material) {
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Provider(material));
  Configure(material, &options);
  options.set_verify_server_certs(true);
  return tls::TlsCredentials(options);
}

}  // namespace qwenserve
