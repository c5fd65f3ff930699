#ifndef QWENSERVE_SERVICES_COMMON_SERVER_MAIN_H_
#define QWENSERVE_SERVICES_COMMON_SERVER_MAIN_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "qwenserve/v1/admin.pb.h"
#include "services/common/flags.h"
#include "services/common/grpc_settings.h"
#include "services/common/metrics/metrics.h"
#include "services/common/net/accept_loop.h"
#include "services/common/tls/tls_material.h"
#include "services/common/tracing/tracing.h"

namespace qwenserve {

struct ServerOptions {
  std::string listen;      // HOST:PORT of gRPC
  std::string ops_listen;  // HOST:PORT of /livez, /readyz, /metrics
  std::string log_level = "info";
  std::string log_format = "text";  // text or json
  absl::Duration drain_delay = absl::Seconds(10);
  absl::Duration drain_timeout = absl::Seconds(600);
  AcceptLoop::Options accept;
  // Served to whoever connects: auto, on or off. By default reflection is on without API keys, and
  // the Admin service on loopback without them: with keys a proxy on this host may let in others.
  std::string reflection = "auto";
  std::string admin = "auto";
  // HOST:PORT on loopback for it alone, whatever the gRPC port is for; empty: none.
  std::string admin_listen;
  // Who may use Admin, loopback or not; needs tls.ca. Empty: everyone who reaches it on loopback.
  std::vector<std::string> admin_clients;
  TlsFiles tls;
  TracingOptions tracing;
  StreamLimits streams;
  // Not a flag: the role asks its callers for keys.
  bool api_keys = false;
};

// What a role may use of its process. Thread-safe, lives longer than the role.
class ServerContext {
 public:
  virtual ~ServerContext() = default;
  // grpc.health.v1 of a model's name.
  virtual void SetServing(const std::string& model, bool serving) = 0;
  // /readyz and grpc.health.v1 of "". The first true prints `ready` on stdout.
  virtual void SetReady(bool ready) = 0;
  virtual Metrics& metrics() = 0;
  // `listening NAME HOST:PORT` on stdout, for a further port of the role.
  virtual void Announce(const std::string& name, const std::string& address) = 0;
  // Of the server's ports; null without TLS.
  virtual const TlsMaterial* tls() = 0;
  // Null: no tracing.
  virtual const Tracer* tracer() = 0;
  // Random, new with every start.
  virtual const std::string& instance_id() const = 0;
  // As SIGTERM.
  virtual void RequestDrain() = 0;
  // A failure that only a restart cures, such as a dead rank: the process logs `status` and exits
  // with status 1 at once, without draining. Does not return.
  virtual void Fail(const absl::Status& status) = 0;
};

// What the process serves: gateway, tokenizer or generator. The calls come in this order, from one
// thread, but for InFlight and the Admin ones, which may come at any time after creation.
class ServerRole {
 public:
  virtual ~ServerRole() = default;

  // The services to register; they live as long as the role.
  virtual std::vector<grpc::Service*> services() = 0;
  // The port is open. A role becomes SERVING through its ServerContext, here or later.
  virtual void OnListening(const std::string& address) = 0;
  // Health is NOT_SERVING now, requests are still taken. `time_left` until the forced end.
  virtual void OnDrain(absl::Duration time_left) = 0;
  // Connections are no longer taken: the drain delay is over.
  virtual void OnStopAccepting() {}
  // Requests that the process must not leave behind; the drain waits for 0.
  virtual int64_t InFlight() = 0;
  // Ends the long-lived streams so that the server can shut down.
  virtual void CloseStreams() = 0;

  // For the Admin service. `status` has the process's part already.
  virtual void FillStatus(v1::GetStatusResponse* status) {}
  // At most `max_requests`, without content; `total` is set too.
  virtual void ListRequests(uint32_t max_requests, v1::ListRequestsResponse* response) {}
};

// Makes the role; loading a model takes place here. /livez answers already, /readyz not yet.
using RoleFactory =
    std::function<absl::StatusOr<std::unique_ptr<ServerRole>>(ServerContext& context)>;

// Adds the flags that every server has; defaults of the ports as given.
void AddServerFlags(Flags& flags, ServerOptions* options, int grpc_port, int ops_port);

// Runs a server from its options to its exit status: logging, ports (each announced on stdout as
// `listening grpc HOST:PORT`), health, reflection, metrics, and the end on SIGTERM or SIGINT:
// health NOT_SERVING, still accepting for drain_delay (not on SIGINT: nobody balances over a
// terminal), then GOAWAY, waiting for requests in flight up to drain_timeout, exit 0. A second
// signal exits at once. `role_name`: gateway, tokenizer or generator.
//
// Call it before starting any thread: it blocks the signals for all of them.
int RunServer(absl::string_view role_name, Exposure exposure, const ServerOptions& options,
              const RoleFactory& make_role);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_SERVER_MAIN_H_
