#include "services/common/server_main.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "qwenserve/v1/admin.grpc.pb.h"
#include "tests/services/common/test_client.h"

namespace qwenserve {
namespace {

using ::grpc::health::v1::HealthCheckRequest;
using ::grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

// Serves the model "m"; its Admin-visible requests in flight end when the file `release` appears.
class FakeRole : public ServerRole {
 public:
  FakeRole(ServerContext& context, std::string release)
      : context_(context), release_(std::move(release)) {}
  std::vector<grpc::Service*> services() override { return {}; }
  void OnListening(const std::string&) override {
    context_.SetServing("m", true);
    context_.SetReady(true);
  }
  void OnDrain(absl::Duration) override {}
  int64_t InFlight() override { return access(release_.c_str(), F_OK) == 0 ? 0 : 1; }
  void CloseStreams() override {}
  void FillStatus(v1::GetStatusResponse* status) override { status->add_models("m"); }

 private:
  ServerContext& context_;
  const std::string release_;
};

// A server in a process of its own, for real signals.
class ServerProcess {
 public:
  explicit ServerProcess(absl::Duration drain_delay,
                         absl::Duration drain_timeout = absl::Seconds(60)) {
    release_ = ::testing::TempDir() + "release." + std::to_string(getpid());
    unlink(release_.c_str());
    int pipes[2];
    EXPECT_EQ(pipe2(pipes, O_CLOEXEC), 0);
    // A fresh program: gRPC does not survive a fork.
    const std::string delay = std::to_string(absl::ToDoubleSeconds(drain_delay));
    const std::string timeout = std::to_string(absl::ToDoubleSeconds(drain_timeout));
    pid_ = fork();
    if (pid_ == 0) {
      dup2(pipes[1], STDOUT_FILENO);
      execl("/proc/self/exe", "server_main_test", "serve", release_.c_str(), delay.c_str(),
            timeout.c_str(), nullptr);
      _exit(127);
    }
    close(pipes[1]);
    out_ = fdopen(pipes[0], "r");
    ops_ = ReadLine("listening ops ");
    grpc_ = ReadLine("listening grpc ");
    EXPECT_EQ(ReadLine("ready"), "");
    channel_ = grpc::CreateChannel(grpc_, grpc::InsecureChannelCredentials());
  }
  ~ServerProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    fclose(out_);
    unlink(release_.c_str());
  }

  void Signal(int signal) { kill(pid_, signal); }
  // Lets the request in flight end.
  void Release() { fclose(fopen(release_.c_str(), "w")); }
  bool Exited() {
    if (pid_ > 0 && waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ == 0;
  }
  int ExitStatus() {
    EXPECT_TRUE(Eventually([&] { return Exited(); }));
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
  }
  // 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING; minus the code of a failed call.
  int Health(const std::string& name) { return Health(name, channel_); }
  // The same at the ops port, by a connection of its own.
  int OpsHealth(const std::string& name) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return Health(name,
                  grpc::CreateCustomChannel(ops_, grpc::InsecureChannelCredentials(), arguments));
  }
  int Health(const std::string& name, const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    auto stub = grpc::health::v1::Health::NewStub(channel);
    const grpc::Status status = stub->Check(&context, request, &response);
    return status.ok() ? response.status() : -status.error_code();
  }
  std::string Ops(const std::string& path) {
    UniqueFd fd = Connect(ops_);
    const std::string request = "GET " + path + " HTTP/1.1\r\nConnection: close\r\n\r\n";
    send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
    return ReadAll(fd.get());
  }
  const std::string& ops_address() const { return ops_; }
  const std::string& grpc_address() const { return grpc_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  std::string ReadLine(const std::string& prefix) {
    char line[256] = "";
    EXPECT_NE(fgets(line, sizeof(line), out_), nullptr);
    const std::string text(line);
    EXPECT_THAT(text, ::testing::StartsWith(prefix));
    return text.substr(prefix.size(), text.size() - prefix.size() - 1);
  }

  pid_t pid_ = 0;
  int status_ = 0;
  FILE* out_ = nullptr;
  std::string release_;
  std::string ops_;
  std::string grpc_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST(ServerMainTest, ServesHealthAndMetrics) {
  ServerProcess server(absl::ZeroDuration());
  EXPECT_EQ(server.Health(""), HealthCheckResponse::SERVING);
  EXPECT_EQ(server.Health("m"), HealthCheckResponse::SERVING);
  EXPECT_EQ(server.Health("other"), -grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(server.Ops("/readyz"), HasSubstr("200 OK"));
  const std::string metrics = server.Ops("/metrics");
  EXPECT_THAT(metrics, HasSubstr("\nqwenserve_ready 1\n"));
  EXPECT_THAT(metrics, HasSubstr("\nqwenserve_grpc_connections 1\n"));
}

TEST(ServerMainTest, HealthIsAtTheOpsPortTooAndNothingElse) {
  ServerProcess server(absl::Seconds(60));
  EXPECT_EQ(server.OpsHealth(""), HealthCheckResponse::SERVING);
  EXPECT_EQ(server.OpsHealth("m"), HealthCheckResponse::SERVING);
  EXPECT_EQ(server.OpsHealth("other"), -grpc::StatusCode::NOT_FOUND);
  const auto ops = grpc::CreateChannel(server.ops_address(), grpc::InsecureChannelCredentials());
  auto admin = v1::Admin::NewStub(ops);
  v1::GetStatusResponse status;
  grpc::ClientContext context;
  EXPECT_EQ(admin->GetStatus(&context, {}, &status).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  // More than it takes at a time: what has ended counts no more.
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(Eventually([&] { return server.OpsHealth("") == HealthCheckResponse::SERVING; }));
  }
  server.Signal(SIGTERM);
  EXPECT_TRUE(Eventually([&] { return server.OpsHealth("") == HealthCheckResponse::NOT_SERVING; }));
}

TEST(ServerMainTest, AdminTellsStatusAndSetsTheLogLevel) {
  ServerProcess server(absl::ZeroDuration());
  auto stub = v1::Admin::NewStub(server.channel());
  v1::GetStatusResponse status;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->GetStatus(&context, {}, &status).ok());
  }
  EXPECT_EQ(status.role(), "tokenizer");
  EXPECT_EQ(status.state(), v1::PROCESS_STATE_SERVING);
  EXPECT_EQ(status.models(0), "m");
  EXPECT_EQ(status.requests_in_flight(), 1u);
  EXPECT_EQ(status.instance_id().size(), 32u);
  v1::SetLogLevelRequest request;
  v1::SetLogLevelResponse response;
  {
    grpc::ClientContext context;
    request.set_level("warn");
    ASSERT_TRUE(stub->SetLogLevel(&context, request, &response).ok());
  }
  EXPECT_EQ(response.previous_level(), "info");
  grpc::ClientContext context;
  request.set_level("loud");
  EXPECT_EQ(stub->SetLogLevel(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(ServerMainTest, DrainTurnsHealthOffKeepsAcceptingAndWaits) {
  ServerProcess server(absl::Seconds(3));
  grpc::ClientContext watch_context;
  auto stub = grpc::health::v1::Health::NewStub(server.channel());
  HealthCheckRequest request;
  auto watch = stub->Watch(&watch_context, request);
  HealthCheckResponse change;
  ASSERT_TRUE(watch->Read(&change));
  EXPECT_EQ(change.status(), HealthCheckResponse::SERVING);
  server.Signal(SIGTERM);
  ASSERT_TRUE(watch->Read(&change));
  EXPECT_EQ(change.status(), HealthCheckResponse::NOT_SERVING);
  // Within the delay: new connections, old calls, and the truth from every probe.
  EXPECT_TRUE(Connect(server.grpc_address()).ok());
  EXPECT_EQ(server.Health("m"), HealthCheckResponse::NOT_SERVING);
  EXPECT_THAT(server.Ops("/readyz"), HasSubstr("503"));
  EXPECT_THAT(server.Ops("/livez"), HasSubstr("200 OK"));
  // After it: no new connections, but the request in flight is waited for.
  EXPECT_TRUE(Eventually([&] { return !Connect(server.grpc_address()).ok(); }));
  EXPECT_FALSE(server.Exited());
  server.Release();
  EXPECT_FALSE(watch->Read(&change));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(server.ExitStatus(), 0);
}

TEST(ServerMainTest, ForcedEndIsNotASuccess) {
  ServerProcess server(absl::ZeroDuration(), absl::Milliseconds(100));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.ExitStatus(), 1);
}

TEST(ServerMainTest, SecondSignalExitsAtOnce) {
  ServerProcess server(absl::Seconds(60));
  server.Signal(SIGTERM);
  ASSERT_TRUE(Eventually([&] { return server.Health("") == HealthCheckResponse::NOT_SERVING; }));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.ExitStatus(), 128 + SIGTERM);
}

TEST(ServerMainTest, InterruptDrainsWithoutTheDelay) {
  ServerProcess server(absl::Seconds(600));
  server.Release();
  server.Signal(SIGINT);
  EXPECT_EQ(server.ExitStatus(), 0);
}

TEST(ServerMainTest, AdminDrainEndsTheProcess) {
  ServerProcess server(absl::ZeroDuration());
  server.Release();
  grpc::ClientContext context;
  v1::DrainResponse response;
  EXPECT_TRUE(v1::Admin::NewStub(server.channel())->Drain(&context, {}, &response).ok());
  EXPECT_EQ(server.ExitStatus(), 0);
}

// The program of ServerProcess: serve RELEASE_FILE DRAIN_DELAY DRAIN_TIMEOUT.
int Serve(char** arguments) {
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.ops_listen = "127.0.0.1:0";
  options.drain_delay = absl::Seconds(std::atof(arguments[1]));
  options.drain_timeout = absl::Seconds(std::atof(arguments[2]));
  const std::string release = arguments[0];
  return RunServer("tokenizer", Exposure::kInternal, options, [&release](ServerContext& context) {
    return absl::StatusOr<std::unique_ptr<ServerRole>>(
        std::make_unique<FakeRole>(context, release));
  });
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "serve") return qwenserve::Serve(argv + 2);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
