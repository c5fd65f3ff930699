#include "tools/qwenctl/bench/http_link.h"

#include "absl/strings/str_cat.h"
#include "boost/asio/buffer.hpp"
#include "boost/asio/ip/address.hpp"
#include "boost/asio/ssl/host_name_verification.hpp"

namespace qwenserve {

namespace {

namespace ssl = boost::asio::ssl;

}  // namespace

absl::StatusOr<std::unique_ptr<HttpTls>> HttpTls::Create(const Connection& connection) {
  auto made = std::make_unique<HttpTls>();
  made->server_name_ = connection.server_name();
  boost::system::error_code error;
  made->context_.set_verify_mode(ssl::verify_peer, error);
  made->context_.add_certificate_authority(boost::asio::buffer(connection.authorities()), error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("--tls-ca is no PEM: ", error.message()));
  }
  if (connection.certificate().empty()) return made;
  made->context_.use_certificate_chain(boost::asio::buffer(connection.certificate()), error);
  if (!error) {
    made->context_.use_private_key(boost::asio::buffer(connection.private_key()), ssl::context::pem,
                                   error);
  }
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls-cert and --tls-key are no pair: ", error.message()));
  }
  return made;
}

HttpLink::HttpLink(boost::asio::io_context& loop, HttpTls* tls) {
  if (tls == nullptr) {
    tcp_.emplace(loop);
    return;
  }
  tls_.emplace(loop, tls->context_);
  boost::system::error_code error;
  tls_->set_verify_callback(ssl::host_name_verification(tls->server_name_), error);
  boost::asio::ip::make_address(tls->server_name_, error);
  // Addresses are not for server name indication.
  if (error) SSL_set_tlsext_host_name(tls_->native_handle(), tls->server_name_.c_str());
}

}  // namespace qwenserve
