#include "services/common/tls/tls_server_context.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

int SelectProtocol(SSL*, const unsigned char** out, unsigned char* out_length,
                   const unsigned char* offered, unsigned length, void* argument) {
  const std::string& ours = *static_cast<const std::string*>(argument);
  unsigned char* selected = nullptr;
  if (SSL_select_next_proto(
          &selected, out_length, reinterpret_cast<const unsigned char*>(ours.data()),
          static_cast<unsigned>(ours.size()), offered, length) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = selected;
  return SSL_TLSEXT_ERR_OK;
}

absl::string_view TextOf(const ASN1_STRING* text) {
  return absl::string_view(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                           static_cast<size_t>(ASN1_STRING_length(text)));
}

// DNS names and URIs.
std::vector<std::string> NamesOf(const X509* certificate) {
  std::vector<std::string> names;
  auto* list = static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(list); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(list, i);
    if (name->type == GEN_DNS) names.emplace_back(TextOf(name->d.dNSName));
    if (name->type == GEN_URI) names.emplace_back(TextOf(name->d.uniformResourceIdentifier));
  }
  GENERAL_NAMES_free(list);
  return names;
}

}  // namespace

TlsServerContext::TlsServerContext(const TlsMaterial& material, const std::string& protocol)
    : material_(material),
      alpn_(absl::StrCat(std::string(1, static_cast<char>(protocol.size())), protocol)) {}

absl::StatusOr<std::unique_ptr<TlsServerContext>> TlsServerContext::Create(
    const TlsMaterial& material, const std::string& protocol) {
  std::unique_ptr<TlsServerContext> made(new TlsServerContext(material, protocol));
  absl::MutexLock lock(&made->mutex_);
  made->version_ = material.version();
  QS_ASSIGN_OR_RETURN(made->context_, made->Make());
  return made;
}

absl::StatusOr<TlsServerContext::Context> TlsServerContext::Make() const {
  ERR_clear_error();
  Context context(SSL_CTX_new(TLS_server_method()));
  SSL_CTX* raw = context.get();
  const std::string pair = material_.pair_path(), ca = material_.ca_path();
  bool good = raw != nullptr && SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION) == 1 &&
              SSL_CTX_use_certificate_chain_file(raw, pair.c_str()) == 1 &&
              SSL_CTX_use_PrivateKey_file(raw, pair.c_str(), SSL_FILETYPE_PEM) == 1;
  if (good && material_.has_ca()) {
    good = SSL_CTX_load_verify_locations(raw, ca.c_str(), nullptr) == 1;
    SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  if (!good) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        absl::StrCat("OpenSSL does not take the certificates in ", material_.files().cert));
  }
  SSL_CTX_set_options(raw, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(raw, 0);
  // Buffers of connections that wait are given back; a write is tried again from another place.
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                            SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_alpn_select_cb(raw, SelectProtocol, const_cast<std::string*>(&alpn_));
  return context;
}

SslHandle TlsServerContext::NewConnection() {
  absl::MutexLock lock(&mutex_);
  const uint64_t version = material_.version();
  if (version != version_) {
    version_ = version;
    auto fresh = Make();
    if (fresh.ok()) {
      context_ = *std::move(fresh);
    } else {
      spdlog::error("certificates stay as they were: {}", std::string(fresh.status().message()));
    }
  }
  SslHandle ssl(SSL_new(context_.get()));
  if (ssl != nullptr) SSL_set_accept_state(ssl.get());
  return ssl;
}

bool TlsServerContext::Admits(const SSL* ssl) const {
  const std::vector<std::string>& allowed = material_.files().peer_names;
  if (allowed.empty()) return true;
  X509* certificate = SSL_get_peer_certificate(ssl);
  const std::vector<std::string> names = NamesOf(certificate);
  X509_free(certificate);
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return std::find(allowed.begin(), allowed.end(), name) != allowed.end();
  });
}

}  // namespace qwenserve
