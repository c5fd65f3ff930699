#ifndef QWENSERVE_TOOLS_QWENCTL_CONNECTION_H_
#define QWENSERVE_TOOLS_QWENCTL_CONNECTION_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/channel_arguments.h"

namespace qwenserve {

// How a command reaches a server: the flags of connection_flags.cc. Empty: not given.
struct ConnectionOptions {
  std::string address = "127.0.0.1:50051";
  std::string api_key;
  std::string api_key_file;  // goes before api_key
  std::string tls_ca;        // without it nothing is encrypted
  std::string tls_cert;      // both or none, and with tls_ca only
  std::string tls_key;
  std::string tls_server_name;  // empty: the address' host
};

// `status` with another text.
absl::Status WithMessage(const absl::Status& status, absl::string_view message);

// A server's address with what it asks for: key, authorities, certificate. Immutable.
class Connection {
 public:
  // Reads the files; errors name them and their flags. Warns on stderr where others could read the
  // key on its way.
  static absl::StatusOr<Connection> Open(const ConnectionOptions& options);

  const std::string& address() const { return options_.address; }
  bool tls() const { return !options_.tls_ca.empty(); }
  // Host of the address, without the brackets of IPv6.
  std::string host() const;
  // That the server's certificate must have.
  std::string server_name() const;
  // PEM; empty where not given.
  const std::string& authorities() const { return authorities_; }
  const std::string& certificate() const { return certificate_; }
  const std::string& private_key() const { return private_key_; }
  // Value of the header `authorization`; empty without a key.
  std::string Authorization() const;

  std::shared_ptr<grpc::Channel> MakeChannel(grpc::ChannelArguments arguments = {}) const;
  // Puts the key, if there is one, into a call.
  void Authorize(grpc::ClientContext* context) const;

  // The errors of calls, with what to do about them. `begun`: part of the answer had come.
  absl::Status Explain(const grpc::Status& status, bool begun = false) const;
  // The server did not take the key, or there was none.
  absl::Status ExplainRefusedKey(const absl::Status& status) const;
  // UNAVAILABLE: nothing that the server said, `cause` is the transport's.
  absl::Status ExplainNoConnection(absl::string_view cause) const;

 private:
  explicit Connection(const ConnectionOptions& options) : options_(options) {}
  absl::Status ReadKey();
  absl::Status ReadCertificates();

  ConnectionOptions options_;  // with the key of the file
  std::string authorities_;
  std::string certificate_;
  std::string private_key_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_CONNECTION_H_
