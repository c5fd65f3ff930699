#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "qwenserve/v1/admin.grpc.pb.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/live_view.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(5);

struct LiveFlags {
  ConnectionOptions connection;
  std::string ops_address = "127.0.0.1:9090";
  double interval_seconds = 2;
  bool once = false;
  uint32_t max_requests = 100;
  std::string log_level;
  std::string output = "text";
  bool json() const { return output == "json"; }
};

// The Admin service of one process.
class AdminClient {
 public:
  static absl::StatusOr<AdminClient> Connect(const LiveFlags& flags) {
    QS_ASSIGN_OR_RETURN(Connection connection, Connection::Open(flags.connection));
    return AdminClient(std::move(connection));
  }

  absl::StatusOr<v1::GetStatusResponse> GetStatus() {
    return Call<v1::GetStatusResponse>([this](grpc::ClientContext* context, auto* response) {
      return stub_->GetStatus(context, {}, response);
    });
  }

  absl::StatusOr<v1::ListRequestsResponse> ListRequests(uint32_t max_requests) {
    v1::ListRequestsRequest request;
    request.set_max_requests(max_requests);
    return Call<v1::ListRequestsResponse>([&](grpc::ClientContext* context, auto* response) {
      return stub_->ListRequests(context, request, response);
    });
  }

  absl::Status SetLogLevel(const std::string& level) {
    v1::SetLogLevelRequest request;
    request.set_level(level);
    return Call<v1::SetLogLevelResponse>([&](grpc::ClientContext* context, auto* response) {
             return stub_->SetLogLevel(context, request, response);
           })
        .status();
  }

 private:
  explicit AdminClient(Connection connection)
      : connection_(std::move(connection)),
        channel_(connection_.MakeChannel()),
        stub_(v1::Admin::NewStub(channel_)) {}

  template <typename Response, typename Send>
  absl::StatusOr<Response> Call(Send send) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(kPatience));
    connection_.Authorize(&context);
    Response response;
    const grpc::Status status = send(&context, &response);
    if (status.ok()) return response;
    if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
      return absl::UnimplementedError(
          absl::StrCat(connection_.address(),
                       " has no Admin service: without --admin-client-names or --admin-listen of "
                       "the server it is on loopback addresses only, and not beside API keys"));
    }
    return connection_.Explain(status);
  }

  Connection connection_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Admin::Stub> stub_;
};

absl::StatusOr<LiveSample> Sample(AdminClient& admin, const LiveFlags& flags) {
  auto status = admin.GetStatus();
  if (!status.ok()) return status.status();
  LiveSample sample = {absl::Now(), *std::move(status), std::nullopt};
  if (flags.ops_address.empty()) return sample;
  auto metrics = MetricsSnapshot::Read(flags.ops_address);
  if (metrics.ok()) sample.metrics = *std::move(metrics);
  return sample;
}

int RunTop(const LiveFlags& flags) {
  auto admin = AdminClient::Connect(flags);
  if (!admin.ok()) return ReportError(admin.status());
  auto before = Sample(*admin, flags);
  if (!before.ok()) return ReportError(before.status());
  if (!flags.ops_address.empty() && !before->metrics.has_value()) {
    std::cerr << "qwenctl: no metrics at " << flags.ops_address
              << ": no rates and times; --ops-address HOST:PORT says where they are" << std::endl;
  }
  // A terminal is redrawn in place; a pipe gets one view after the other.
  const bool redraw = !flags.once && !flags.json() && isatty(STDOUT_FILENO) == 1;
  while (std::cout) {
    absl::SleepFor(absl::Seconds(flags.interval_seconds));
    auto now = Sample(*admin, flags);
    if (!now.ok()) return ReportError(now.status());
    const Json live = LiveJson(*before, *now);
    if (redraw) std::cout << "\x1b[H\x1b[2J";
    if (flags.json()) {
      std::cout << live.dump() << std::endl;
    } else {
      std::cout << LiveTable(live) << std::flush;
    }
    if (flags.once) break;
    before = std::move(now);
  }
  return kExitOk;
}

int RunRequests(const LiveFlags& flags) {
  auto admin = AdminClient::Connect(flags);
  if (!admin.ok()) return ReportError(admin.status());
  const auto requests = admin->ListRequests(flags.max_requests);
  if (!requests.ok()) return ReportError(requests.status());
  const Json json = RequestsJson(*requests, absl::Now());
  if (flags.json()) {
    std::cout << json.dump() << std::endl;
  } else {
    std::cout << RequestsTable(json) << std::flush;
  }
  return kExitOk;
}

int RunLogLevel(const LiveFlags& flags) {
  auto admin = AdminClient::Connect(flags);
  if (!admin.ok()) return ReportError(admin.status());
  const absl::Status status = admin->SetLogLevel(flags.log_level);
  return status.ok() ? kExitOk : ReportError(status);
}

void AddCommonFlags(CLI::App& command, LiveFlags* flags) {
  AddConnectionFlags(command, "gRPC port of the process", &flags->connection);
  command.add_option("--output", flags->output, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
}

}  // namespace

void AddLiveCommands(CLI::App& app, int* exit_code) {
  CLI::App* top = app.add_subcommand(
      "top", "Live view of a gateway: its workers, queues, KV cache, tokens/s, first tokens");
  auto top_flags = std::make_shared<LiveFlags>();
  AddCommonFlags(*top, top_flags.get());
  top->add_option("--ops-address", top_flags->ops_address,
                  "Where its metrics are, HOST:PORT; empty: no rates and times")
      ->check([](const std::string& address) {
        return address.empty() ? std::string() : CheckAddress(address);
      })
      ->capture_default_str();
  top->add_option("--interval", top_flags->interval_seconds, "Seconds between two views")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  top->add_flag("--once", top_flags->once, "One view, of one interval");
  top->callback([top_flags, exit_code] { *exit_code = RunTop(*top_flags); });

  CLI::App* requests =
      app.add_subcommand("requests", "The requests in flight, without their content");
  auto request_flags = std::make_shared<LiveFlags>();
  AddCommonFlags(*requests, request_flags.get());
  requests->add_option("--max", request_flags->max_requests, "At most so many")
      ->check(CLI::Range(1u, 10000u))
      ->capture_default_str();
  requests->callback([request_flags, exit_code] { *exit_code = RunRequests(*request_flags); });

  CLI::App* log_level = app.add_subcommand(
      "log-level", "Change what a process logs, until its end or the next change");
  auto level_flags = std::make_shared<LiveFlags>();
  AddConnectionFlags(*log_level, "gRPC or admin port of the process", &level_flags->connection);
  log_level->add_option("level", level_flags->log_level, "trace, debug, info, warn or error")
      ->required();
  log_level->callback([level_flags, exit_code] { *exit_code = RunLogLevel(*level_flags); });
}

}  // namespace qwenserve
