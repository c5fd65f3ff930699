#include "services/common/accept_loop.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <mutex>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/listen_socket.h"
#include "tests/services/common/test_client.h"

namespace qwenserve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Keeps the accepted connections, as a server would.
class Server {
 public:
  explicit Server(const AcceptLoop::Options& options = {}) {
    auto socket = BindSocket("127.0.0.1:0");
    EXPECT_TRUE(socket.ok()) << socket.status();
    auto loop = AcceptLoop::Start(std::move(*socket), options, [this](int fd) {
      std::lock_guard lock(mutex_);
      connections_.emplace_back(fd);
    });
    EXPECT_TRUE(loop.ok()) << loop.status();
    loop_ = std::move(*loop);
  }

  AcceptLoop& loop() { return *loop_; }
  // As gRPC ends a connection: shut down, then closed.
  void CloseAll() {
    std::lock_guard lock(mutex_);
    for (UniqueFd& fd : connections_) shutdown(fd.get(), SHUT_RDWR);
    connections_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<UniqueFd> connections_;
  std::unique_ptr<AcceptLoop> loop_;
};

TEST(BindSocketTest, TellsThePortInUse) {
  auto socket = BindSocket("127.0.0.1:0");
  ASSERT_TRUE(socket.ok());
  EXPECT_THAT(socket->address, ::testing::MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]+"));
  EXPECT_TRUE(socket->loopback);
  EXPECT_FALSE(BindSocket("0.0.0.0:0")->loopback);
}

TEST(BindSocketTest, NamesABadAddress) {
  for (const char* bad : {"", "localhost", "127.0.0.1:", "127.0.0.1:65536", "::1:0", "a:b"}) {
    auto socket = BindSocket(bad);
    ASSERT_FALSE(socket.ok()) << bad;
    EXPECT_EQ(socket.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(socket.status().message()), HasSubstr(bad));
  }
}

TEST(BindSocketTest, TellsThatAPortIsTaken) {
  Server server;
  auto second = BindSocket(server.loop().address());
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(server.loop().address()), HasSubstr("in use")));
}

TEST(AcceptLoopTest, CountsLiveConnections) {
  Server server;
  UniqueFd first = Connect(server.loop().address());
  UniqueFd second = Connect(server.loop().address());
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().live == 2; }));
  server.CloseAll();
  EXPECT_EQ(ReadAll(first.get()), "");  // the duplicate does not hold the connection open
  EXPECT_TRUE(Eventually([&] { return server.loop().stats().live == 0; }));
  EXPECT_EQ(server.loop().stats().accepted, 2u);
}

TEST(AcceptLoopTest, ResetsConnectionsAboveTheLimit) {
  Server server({.max_connections = 2});
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 2; ++i) clients.push_back(Connect(server.loop().address()));
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().live == 2; }));
  UniqueFd third = Connect(server.loop().address());
  EXPECT_EQ(ReadAll(third.get()), "RESET");
  EXPECT_EQ(server.loop().stats().refused_limit, 1u);
  server.CloseAll();
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().live == 0; }));
  UniqueFd fourth = Connect(server.loop().address());
  EXPECT_TRUE(Eventually([&] { return server.loop().stats().accepted == 3; }));
}

TEST(AcceptLoopTest, ResetsConnectionsAboveThePeersLimit) {
  Server server({.max_connections = 10, .max_connections_per_peer = 1});
  UniqueFd first = Connect(server.loop().address());
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().live == 1; }));
  UniqueFd second = Connect(server.loop().address());
  EXPECT_EQ(ReadAll(second.get()), "RESET");
  EXPECT_EQ(server.loop().stats().refused_peer_limit, 1u);
}

TEST(AcceptLoopTest, StopAcceptingRefusesNewAndKeepsOld) {
  Server server;
  UniqueFd old = Connect(server.loop().address());
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().live == 1; }));
  server.loop().StopAccepting();
  EXPECT_FALSE(Connect(server.loop().address()).ok());
  server.CloseAll();
  EXPECT_TRUE(Eventually([&] { return server.loop().stats().live == 0; }));
}

// Runs with few descriptors and reports to the parent by its exit status.
int ServeWithFewDescriptors(int address_pipe) {
  Server server;
  const std::string address = server.loop().address();
  const rlimit few{40, 40};
  if (setrlimit(RLIMIT_NOFILE, &few) != 0) return 10;
  if (write(address_pipe, address.data(), address.size()) < 0) return 11;
  close(address_pipe);
  if (!Eventually([&] { return server.loop().stats().refused_descriptors >= 200; })) return 12;
  server.CloseAll();
  const uint64_t before = server.loop().stats().accepted;
  if (!Eventually([&] { return server.loop().stats().accepted > before; })) return 13;
  return 0;
}

TEST(AcceptLoopTest, SurvivesRunningOutOfDescriptors) {
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(pipes[0]);
    _exit(ServeWithFewDescriptors(pipes[1]));
  }
  close(pipes[1]);
  char address[64] = "";
  ASSERT_GT(read(pipes[0], address, sizeof(address) - 1), 0);
  close(pipes[0]);
  std::vector<UniqueFd> storm;
  for (int i = 0; i < 300; ++i) storm.push_back(Connect(address));
  // The storm goes on until the child has shed enough, closed the rest and served a new one.
  int status = -1;
  EXPECT_TRUE(Eventually([&] {
    storm.push_back(Connect(address));
    return waitpid(child, &status, WNOHANG) == child;
  }));
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace qwenserve
