#include "tools/qwenctl/connection.h"

#include <algorithm>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "boost/asio/ip/address.hpp"
#include "engine/base/status_macros.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/tls/tls_material.h"
#include "services/common/watched_files.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;
constexpr size_t kMaxKeyBytes = 4096;

bool IsLoopback(const std::string& host) {
  if (host == "localhost") return true;
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  return !error && address.is_loopback();
}

absl::Status AddHint(const absl::Status& status, absl::string_view hint) {
  return WithMessage(status, absl::StrCat(status.message(), ": ", hint));
}

absl::Status InFlags(absl::string_view flags, const absl::Status& status) {
  return status.ok() ? status : WithMessage(status, absl::StrCat(flags, ": ", status.message()));
}

absl::StatusOr<std::string> ReadFlagFile(absl::string_view flag, const std::string& path,
                                         size_t max_bytes) {
  absl::StatusOr<std::string> text = ReadSmallFile(path, max_bytes);
  if (!text.ok()) {
    return WithMessage(text.status(), absl::StrCat(flag, " ", text.status().message()));
  }
  return text;
}

}  // namespace

absl::Status WithMessage(const absl::Status& status, absl::string_view message) {
  absl::Status result(status.code(), message);
  status.ForEachPayload([&](absl::string_view type_url, const absl::Cord& payload) {
    result.SetPayload(type_url, payload);
  });
  return result;
}

absl::StatusOr<Connection> Connection::Open(const ConnectionOptions& options) {
  Connection connection(options);
  QS_RETURN_IF_ERROR(connection.ReadKey());
  if (connection.tls()) {
    QS_RETURN_IF_ERROR(connection.ReadCertificates());
  } else if (!connection.options_.api_key.empty() && !IsLoopback(connection.host())) {
    std::cerr << "qwenctl: warning: the API key goes to " << options.address
              << " unencrypted: give --tls-ca, or go through a tunnel" << std::endl;
  }
  return connection;
}

absl::Status Connection::ReadCertificates() {
  // What is wrong with them gRPC would tell on lines of its own, and then that nobody is there.
  QS_ASSIGN_OR_RETURN(authorities_, ReadFlagFile("--tls-ca", options_.tls_ca, kMaxPemBytes));
  QS_RETURN_IF_ERROR(
      InFlags(absl::StrCat("--tls-ca ", options_.tls_ca), CheckAuthorities(authorities_)));
  if (options_.tls_cert.empty()) return absl::OkStatus();
  QS_ASSIGN_OR_RETURN(certificate_, ReadFlagFile("--tls-cert", options_.tls_cert, kMaxPemBytes));
  QS_ASSIGN_OR_RETURN(private_key_, ReadFlagFile("--tls-key", options_.tls_key, kMaxPemBytes));
  return InFlags(
      absl::StrCat("--tls-cert ", options_.tls_cert, " with --tls-key ", options_.tls_key),
      CheckKeyPair(certificate_, private_key_, absl::Now()).status());
}

absl::Status Connection::ReadKey() {
  const std::string& path = options_.api_key_file;
  if (!path.empty()) {
    QS_ASSIGN_OR_RETURN(const std::string text, ReadFlagFile("--api-key-file", path, kMaxKeyBytes));
    options_.api_key = std::string(absl::StripAsciiWhitespace(text));
    if (options_.api_key.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--api-key-file ", path, " holds no API key"));
    }
  }
  // gRPC aborts over others in a header.
  if (!std::all_of(options_.api_key.begin(), options_.api_key.end(),
                   [](unsigned char c) { return absl::ascii_isgraph(c); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.empty() ? "the API key" : absl::StrCat("--api-key-file ", path),
                     " has characters that no API key has: one line of printable ASCII is needed"));
  }
  return absl::OkStatus();
}

std::string Connection::host() const {
  const std::string host = options_.address.substr(0, options_.address.rfind(':'));
  const bool brackets = host.size() > 1 && host.front() == '[';
  return brackets ? host.substr(1, host.size() - 2) : host;
}

std::string Connection::server_name() const {
  return options_.tls_server_name.empty() ? host() : options_.tls_server_name;
}

std::string Connection::Authorization() const {
  return options_.api_key.empty() ? "" : absl::StrCat("Bearer ", options_.api_key);
}

std::shared_ptr<grpc::Channel> Connection::MakeChannel(grpc::ChannelArguments arguments) const {
  if (!tls()) {
    return grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments);
  }
  grpc::SslCredentialsOptions files;
  files.pem_root_certs = authorities_;
  files.pem_cert_chain = certificate_;
  files.pem_private_key = private_key_;
  if (!options_.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(options_.tls_server_name);
  }
  return grpc::CreateCustomChannel(address(), grpc::SslCredentials(files), arguments);
}

void Connection::Authorize(grpc::ClientContext* context) const {
  if (!options_.api_key.empty()) context->AddMetadata("authorization", Authorization());
}

absl::Status Connection::Explain(const grpc::Status& status, bool begun) const {
  absl::Status result = FromGrpcStatus(status);
  if (result.code() == absl::StatusCode::kUnauthenticated) return ExplainRefusedKey(result);
  if (result.code() == absl::StatusCode::kUnavailable && status.error_details().empty()) {
    if (absl::StartsWith(result.message(), "failed to connect")) {
      return ExplainNoConnection(result.message());
    }
    if (begun) {
      return absl::UnavailableError(absl::StrCat("the answer broke off: lost the gateway at ",
                                                 address(), " (", result.message(), ")"));
    }
    // No such name, or a connection that was there and broke: gRPC tells by words alone.
    const bool lost = absl::StrContains(absl::AsciiStrToLower(result.message()), "closed") ||
                      absl::StrContains(absl::AsciiStrToLower(result.message()), "reset");
    return absl::UnavailableError(absl::StrCat(lost ? "lost the gateway at " : "no gateway at ",
                                               address(), " (", result.message(), ")"));
  }
  return result;
}

absl::Status Connection::ExplainRefusedKey(const absl::Status& status) const {
  if (!options_.api_key_file.empty()) {
    return AddHint(status, absl::StrCat("it is the one in --api-key-file ", options_.api_key_file));
  }
  return AddHint(status, options_.api_key.empty()
                             ? "set QWENSERVE_API_KEY or give --api-key-file FILE"
                             : "it is the one of QWENSERVE_API_KEY or --api-key");
}

absl::Status Connection::ExplainNoConnection(absl::string_view cause) const {
  // gRPC, OpenSSL and asio tell by words alone.
  const std::string words = absl::AsciiStrToLower(cause);
  const bool reached = !absl::StrContains(words, "refused");
  std::string hint;
  if (!tls() && reached) {
    hint = "; if it speaks TLS, give --tls-ca";
  } else if (tls() && absl::StrContains(words, "wrong version number")) {
    hint = "; it seems to speak no TLS: leave out --tls-ca";
  } else if (tls() &&
             (absl::StrContains(words, "verif") || absl::StrContains(words, "peer name"))) {
    hint = absl::StrCat("; its certificate must be signed by one of ", options_.tls_ca,
                        " and be for ", server_name(), ", or give --tls-server-name");
  } else if (tls() && reached) {
    hint =
        "; it may want a certificate (--tls-cert, --tls-key), or speak no TLS (leave out --tls-ca)";
  }
  return absl::UnavailableError(absl::StrCat("no gateway at ", address(), " (", cause, ")", hint));
}

}  // namespace qwenserve
