#include "services/common/server_main.h"

#include <malloc.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/base/monotonic_time.h"
#include "engine/base/status_macros.h"
#include "google/protobuf/stubs/logging.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "services/common/crash_stack.h"
#include "services/common/logging.h"
#include "services/common/net/accept_loop.h"
#include "services/common/net/accept_metrics.h"
#include "services/common/net/listen_socket.h"
#include "services/common/ops/admin_service.h"
#include "services/common/ops/health_service.h"
#include "services/common/ops/local_admin.h"
#include "services/common/ops/ops_health.h"
#include "services/common/ops/ops_server.h"
#include "services/common/proto_time.h"
#include "services/common/tls/grpc_tls.h"
#include "services/common/version.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

// After the last request. Not waited for: a client with an open reflection stream, or an idle one
// that reads its connection (and the GOAWAY) only with its next call.
constexpr absl::Duration kShutdownGrace = absl::Seconds(2);

// What the last spans of a process may take to reach their collector.
constexpr absl::Duration kFlushLimit = absl::Seconds(3);

// One machine-read line.
void PrintLine(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

// The C library gives threads eight heaps for each core, and each heap keeps for ever what its
// worst moment needed: a gateway's memory then creeps up for an hour. One heap for each core stays
// flat.
void LimitHeaps() {
  if (std::getenv("MALLOC_ARENA_MAX") != nullptr) return;
  mallopt(M_ARENA_MAX, static_cast<int>(std::max(2u, std::thread::hardware_concurrency())));
}

// Ends the process without destructors: threads may be anywhere.
[[noreturn]] void ExitNow(int status) {
  spdlog::default_logger()->flush();
  std::_Exit(status);
}

std::string RandomId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

bool ReflectionWanted(const ServerOptions& options) {
  if (options.reflection == "auto") return !options.api_keys;
  return options.reflection == "on" || options.reflection == "true";
}

absl::StatusOr<bool> AdminWanted(const ServerOptions& options, const ListenSocket& socket) {
  const bool named = !options.admin_clients.empty();
  if (options.admin == "auto") return named || (socket.loopback && !options.api_keys);
  if (options.admin == "off") return false;
  if (named || socket.loopback) return true;
  return absl::InvalidArgumentError(absl::StrCat("--admin on needs a loopback address, ",
                                                 socket.address,
                                                 " is none, or --admin-client-names"));
}

class Process : public ServerContext {
 public:
  Process(absl::string_view role_name, const std::string& instance_id, Exposure exposure,
          const ServerOptions& options)
      : role_name_(role_name),
        exposure_(exposure),
        options_(options),
        instance_id_(instance_id),
        metrics_(role_name),
        server_metrics_(metrics_),
        admin_(AdminHooks(), options.admin_clients) {}

  absl::Status Start(const RoleFactory& make_role);
  // Until drained; the exit status.
  int Serve();
  // A signal arrived.
  void OnSignal(int signal);

  void SetServing(const std::string& model, bool serving) override { health_.Set(model, serving); }
  void SetReady(bool ready) override;
  Metrics& metrics() override { return metrics_; }
  void Announce(const std::string& name, const std::string& address) override {
    PrintLine(absl::StrCat("listening ", name, " ", address));
  }
  const TlsMaterial* tls() override { return tls_.get(); }
  const Tracer* tracer() override { return tracing_ == nullptr ? nullptr : &tracing_->tracer(); }
  const std::string& instance_id() const override { return instance_id_; }
  void RequestDrain() override { RequestDrain(options_.drain_delay, options_.drain_timeout); }
  void Fail(const absl::Status& status) override;

 private:
  struct DrainPlan {
    absl::Duration delay;
    absl::Duration timeout;
  };

  AdminService::Hooks AdminHooks();
  absl::Status StartOps();
  absl::Status StartGrpc(ListenSocket socket);
  void ApplyReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RequestDrain(absl::Duration delay, absl::Duration timeout);
  v1::ProcessState State();
  void FillStatus(v1::GetStatusResponse* status);
  int Drain(const DrainPlan& plan);
  void FlushSpans() {
    if (tracing_ != nullptr) tracing_->Flush(kFlushLimit);
  }

  const std::string role_name_;
  const Exposure exposure_;
  const ServerOptions options_;
  const std::string instance_id_;
  const absl::Time start_time_ = MonotonicNow();
  Metrics metrics_;
  ServerMetrics server_metrics_;
  HealthService health_;
  AdminService admin_;

  absl::Mutex mutex_;
  bool ready_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool listening_ ABSL_GUARDED_BY(mutex_) = false;
  bool was_ready_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<DrainPlan> drain_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> loading_{true};

  std::unique_ptr<TlsMaterial> tls_;  // null: plaintext
  std::unique_ptr<Tracing> tracing_;  // null: off

  // In the order of construction: each uses those before it.
  std::unique_ptr<ServerRole> role_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<AcceptLoop> accept_loop_;
  std::unique_ptr<LocalAdmin> local_admin_;  // null: none
  std::unique_ptr<OpsHealth> ops_health_;
  std::unique_ptr<OpsServer> ops_;
};

void Process::SetReady(bool ready) {
  absl::MutexLock lock(&mutex_);
  ready_wanted_ = ready;
  ApplyReady();
}

void Process::ApplyReady() {
  const bool ready = ready_wanted_ && listening_ && !drain_.has_value();
  health_.Set("", ready);
  server_metrics_.ready.Set(ready ? 1 : 0);
  if (!ready || was_ready_) return;
  was_ready_ = true;
  PrintLine("ready");
}

void Process::Fail(const absl::Status& status) {
  spdlog::critical("{}; the process ends", std::string(status.message()));
  ExitNow(1);
}

void Process::RequestDrain(absl::Duration delay, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  if (!drain_.has_value()) drain_ = DrainPlan{delay, timeout};
}

void Process::OnSignal(int signal) {
  bool again;
  {
    absl::MutexLock lock(&mutex_);
    again = drain_.has_value();
  }
  if (loading_) {
    spdlog::info("stopped while starting");
    ExitNow(0);
  }
  if (again) {
    spdlog::warn("second signal: the process ends at once");
    ExitNow(128 + signal);
  }
  RequestDrain(signal == SIGINT ? absl::ZeroDuration() : options_.drain_delay,
               options_.drain_timeout);
}

v1::ProcessState Process::State() {
  absl::MutexLock lock(&mutex_);
  if (drain_.has_value()) return v1::PROCESS_STATE_DRAINING;
  if (health_.IsServing("")) return v1::PROCESS_STATE_SERVING;
  return was_ready_ ? v1::PROCESS_STATE_NOT_SERVING : v1::PROCESS_STATE_STARTING;
}

void Process::FillStatus(v1::GetStatusResponse* status) {
  status->set_role(role_name_);
  status->set_instance_id(instance_id_);
  status->set_version(std::string(Version()));
  status->set_state(State());
  ToProtoDuration(MonotonicNow() - start_time_, status->mutable_uptime());
  status->set_requests_in_flight(static_cast<uint64_t>(role_->InFlight()));
  status->set_log_level(LogLevel());
  role_->FillStatus(status);
}

AdminService::Hooks Process::AdminHooks() {
  return {.fill_status = [this](v1::GetStatusResponse* status) { FillStatus(status); },
          .list_requests =
              [this](uint32_t max_requests, v1::ListRequestsResponse* response) {
                role_->ListRequests(max_requests, response);
              },
          .drain =
              [this](std::optional<absl::Duration> timeout) {
                RequestDrain(options_.drain_delay, timeout.value_or(options_.drain_timeout));
              }};
}

absl::Status Process::StartOps() {
  QS_ASSIGN_OR_RETURN(ListenSocket socket, BindSocket(options_.ops_listen));
  OpsServer::Handlers handlers;
  handlers.live = [] { return absl::OkStatus(); };
  handlers.ready = [this] {
    const v1::ProcessState state = State();
    if (state == v1::PROCESS_STATE_SERVING) return absl::OkStatus();
    return absl::UnavailableError(state == v1::PROCESS_STATE_DRAINING   ? "draining"
                                  : state == v1::PROCESS_STATE_STARTING ? "starting"
                                                                        : "not serving");
  };
  handlers.metrics = [this] { return metrics_.Scrape(); };
  handlers.http2 = [this](int fd, const std::string& received) { ops_health_->Take(fd, received); };
  QS_ASSIGN_OR_RETURN(ops_health_, OpsHealth::Start(&health_));
  QS_ASSIGN_OR_RETURN(ops_, OpsServer::Start(std::move(socket), {}, std::move(handlers)));
  Announce("ops", ops_->address());
  return absl::OkStatus();
}

absl::Status Process::StartGrpc(ListenSocket socket) {
  grpc::ServerBuilder builder;
  ApplyServerSettings(builder, exposure_, options_.streams);
  if (!ReflectionWanted(options_)) TurnOffReflection(builder);
  for (grpc::Service* service : role_->services()) builder.RegisterService(service);
  builder.RegisterService(&health_);
  QS_ASSIGN_OR_RETURN(const bool admin, AdminWanted(options_, socket));
  if (admin) builder.RegisterService(&admin_);
  acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      tls_ == nullptr ? grpc::InsecureServerCredentials() : TlsServerCredentials(*tls_));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("gRPC refuses to start");
  QS_ASSIGN_OR_RETURN(
      accept_loop_,
      AcceptLoop::Start(std::move(socket), options_.accept, [this](int fd, const std::string&) {
        grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
        connection.fd = fd;
        acceptor_->HandleNewConnection(&connection);
      }));
  metrics_.OnScrape([this] { ReportConnections(accept_loop_->stats(), server_metrics_); });
  return absl::OkStatus();
}

absl::Status Process::Start(const RoleFactory& make_role) {
  const int64_t descriptors = RaiseDescriptorLimit();
  spdlog::info("qwenserve {} {}, instance {}, {} file descriptors", role_name_,
               std::string(Version()), instance_id_, descriptors);
  // Bound before the model is loaded, so that a port in use is told at once.
  QS_ASSIGN_OR_RETURN(ListenSocket socket, BindSocket(options_.listen));
  ListenSocket admin_socket;
  if (!options_.admin_listen.empty()) {
    QS_ASSIGN_OR_RETURN(admin_socket, BindSocket(options_.admin_listen));
    if (!admin_socket.loopback) {
      return absl::InvalidArgumentError(
          absl::StrCat("--admin-listen is ", admin_socket.address, ", not a loopback address"));
    }
  }
  if (options_.streams.max_concurrent_streams < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--max-concurrent-streams is ",
                                                   options_.streams.max_concurrent_streams,
                                                   ", not at least 1"));
  }
  if (options_.tls.enabled()) {
    if (options_.tls.cert.empty()) {
      return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
    }
    QS_ASSIGN_OR_RETURN(tls_, TlsMaterial::Load(options_.tls, "tls", absl::Seconds(1), metrics_));
  } else if (!options_.tls.key.empty() || !options_.tls.peer_names.empty()) {
    return absl::InvalidArgumentError("--tls-key and --tls-client-names need --tls-cert");
  }
  if (!options_.tls.peer_names.empty() && options_.tls.ca.empty()) {
    return absl::InvalidArgumentError("--tls-client-names needs --tls-client-ca");
  }
  if (!options_.admin_clients.empty() && options_.tls.ca.empty()) {
    return absl::InvalidArgumentError("--admin-client-names needs --tls-client-ca");
  }
  QS_ASSIGN_OR_RETURN(tracing_,
                      Tracing::Start(options_.tracing, role_name_, instance_id_, metrics_));
  QS_RETURN_IF_ERROR(StartOps());
  // Idempotent; also what makes the linker keep the library.
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  QS_ASSIGN_OR_RETURN(role_, make_role(*this));
  QS_RETURN_IF_ERROR(StartGrpc(std::move(socket)));
  if (!options_.admin_listen.empty()) {
    QS_ASSIGN_OR_RETURN(local_admin_, LocalAdmin::Start(std::move(admin_socket),
                                                        ReflectionWanted(options_), AdminHooks()));
    Announce("admin", local_admin_->address());
  }
  loading_ = false;
  Announce("grpc", accept_loop_->address());
  {
    absl::MutexLock lock(&mutex_);
    listening_ = true;
    ApplyReady();
  }
  role_->OnListening(accept_loop_->address());
  return absl::OkStatus();
}

int Process::Serve() {
  DrainPlan plan;
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](std::optional<DrainPlan>* drain) { return drain->has_value(); }, &drain_));
    plan = *drain_;
    health_.Drain();
    ApplyReady();
  }
  const int status = Drain(plan);
  metrics_.ClearScrapeHooks();
  local_admin_.reset();
  accept_loop_.reset();
  server_.reset();
  role_.reset();
  FlushSpans();
  ops_.reset();
  ops_health_.reset();
  return status;
}

int Process::Drain(const DrainPlan& plan) {
  spdlog::info("draining: {} requests in flight", role_->InFlight());
  role_->OnDrain(plan.delay + plan.timeout);
  absl::SleepFor(plan.delay);
  accept_loop_->StopAccepting();
  role_->OnStopAccepting();
  const absl::Time deadline = MonotonicNow() + plan.timeout;
  absl::Notification shut_down;
  // Shutdown sends GOAWAY first, so that clients with open connections go elsewhere, and then
  // waits for the calls: longer than we do, since what it cuts off is not in flight any more.
  const absl::Duration patience = plan.timeout + kShutdownGrace / 2;
  std::thread shutdown([&] {
    server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(patience));
    shut_down.Notify();
  });
  while (role_->InFlight() > 0 && MonotonicNow() < deadline) absl::SleepFor(absl::Milliseconds(10));
  const int64_t left = role_->InFlight();
  role_->CloseStreams();
  health_.CloseWatches();
  const int status = left == 0 ? 0 : 1;
  if (left > 0) spdlog::error("drain timeout: {} requests were cut off", left);
  spdlog::info("drained");
  if (!shut_down.WaitForNotificationWithTimeout(kShutdownGrace)) {
    FlushSpans();
    ExitNow(status);
  }
  shutdown.join();
  return status;
}

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Waits for the blocked stop signals on a thread of its own.
class SignalThread {
 public:
  explicit SignalThread(Process& process) : thread_([this, &process] { Run(process); }) {}
  ~SignalThread() {
    exit_ = true;
    thread_.join();
  }

 private:
  void Run(Process& process) {
    const sigset_t signals = StopSignals();
    const timespec poll{0, 50'000'000};
    while (!exit_) {
      const int signal = sigtimedwait(&signals, nullptr, &poll);
      if (signal > 0) process.OnSignal(signal);
    }
  }

  std::atomic<bool> exit_{false};
  std::thread thread_;
};

}  // namespace

void AddServerFlags(Flags& flags, ServerOptions* options, int grpc_port, int ops_port) {
  options->listen = absl::StrCat("127.0.0.1:", grpc_port);
  options->ops_listen = absl::StrCat("127.0.0.1:", ops_port);
  flags.Add("listen", &options->listen, "HOST:PORT of gRPC; port 0 takes a free one");
  flags.Add("ops-listen", &options->ops_listen,
            "HOST:PORT of /livez, /readyz, /metrics and grpc.health.v1");
  flags.Add("log-level", &options->log_level, "trace, debug, info, warn or error");
  flags.OneOf(LogLevels());
  flags.Add("log-format", &options->log_format, "text, or json: one object a line");
  flags.OneOf({"text", "json"});
  flags.Add("drain-delay", &options->drain_delay,
            "Seconds after SIGTERM in which connections are still accepted");
  flags.Add("drain-timeout", &options->drain_timeout,
            "Seconds that requests in flight get to end after that");
  flags.Add("max-connections", &options->accept.max_connections, "gRPC connections in all");
  flags.Add("max-connections-per-peer", &options->accept.max_connections_per_peer,
            "gRPC connections from one address; 0 = no limit of its own");
  flags.Add("tls-cert", &options->tls.cert,
            "Certificates of the server, in PEM: its own first; replaced ones are taken up");
  flags.Add("tls-key", &options->tls.key, "Private key of the first of them, in PEM");
  flags.Add("tls-client-ca", &options->tls.ca,
            "Clients need a certificate that one of these has signed");
  flags.Add("tls-client-names", &options->tls.peer_names,
            "And one of these DNS names or URIs, such as spiffe://cluster/gateway, must be in it");
  flags.Add("reflection", &options->reflection,
            "Serve gRPC reflection: auto (unless there are API keys), on or off");
  flags.OneOf({"auto", "on", "off", "true", "false"});
  flags.Add("admin", &options->admin,
            "Serve the Admin service on the gRPC port: auto (on loopback, unless there are API\n"
            "keys, or with --admin-client-names), on or off; on needs loopback or these names");
  flags.OneOf({"auto", "on", "off"});
  flags.Add(
      "admin-listen", &options->admin_listen,
      "HOST:PORT on loopback for the Admin service alone, whatever the gRPC port listens on;\n"
      "in plaintext, for whoever has a shell on the machine or in the pod; empty: none");
  flags.Add("admin-client-names", &options->admin_clients,
            "Only clients whose certificate has one of these DNS names or URIs may use the Admin\n"
            "service, from anywhere; needs --tls-client-ca");
  AddTracingFlags(flags, &options->tracing);
}

int RunServer(absl::string_view role_name, Exposure exposure, const ServerOptions& options,
              const RoleFactory& make_role) {
  const std::string instance_id = RandomId();
  InitLogging(role_name, instance_id, options.log_format == "json");
  // Debian's Abseil is built to look for lock cycles at every lock, under one lock for all: a tenth
  // of the time of a busy gateway.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  LimitHeaps();
  if (absl::Status status = SetLogLevel(options.log_level); !status.ok()) {
    spdlog::error("{}", std::string(status.message()));
    return 2;
  }
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  PrintStackOnCrash();
  // It would write a line, which is not ours, for each string of a client that is no UTF-8; the
  // call is refused with a status anyway.
  google::protobuf::SetLogHandler(nullptr);
  Process process(role_name, instance_id, exposure, options);
  SignalThread signal_thread(process);
  if (absl::Status status = process.Start(make_role); !status.ok()) {
    spdlog::error("cannot start: {}", std::string(status.message()));
    ExitNow(1);
  }
  return process.Serve();
}

}  // namespace qwenserve
