#include "services/common/net/accept_loop.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <mutex>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/net/listen_socket.h"
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
    auto loop =
        AcceptLoop::Start(std::move(*socket), options, [this](int fd, const std::string& peer) {
          std::lock_guard lock(mutex_);
          peers_.push_back(peer);
          connections_.emplace_back(fd);
        });
    EXPECT_TRUE(loop.ok()) << loop.status();
    loop_ = std::move(*loop);
  }

  AcceptLoop& loop() { return *loop_; }
  std::vector<std::string> peers() {
    std::lock_guard lock(mutex_);
    return peers_;
  }
  // What came first on the first connection.
  std::string ReadFirst() {
    std::lock_guard lock(mutex_);
    char text[64];
    const ssize_t got = recv(connections_.at(0).get(), text, sizeof(text), 0);
    return std::string(text, got > 0 ? static_cast<size_t>(got) : 0);
  }
  // As gRPC ends a connection: shut down, then closed.
  void CloseAll() {
    std::lock_guard lock(mutex_);
    for (UniqueFd& fd : connections_) shutdown(fd.get(), SHUT_RDWR);
    connections_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<UniqueFd> connections_;
  std::vector<std::string> peers_;
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

AcceptLoop::Options BehindProxies(std::chrono::milliseconds patience) {
  AcceptLoop::Options options;
  options.max_connections_per_peer = 1;
  options.trusted_proxies = *NetworkList::Parse({"127.0.0.1"});
  options.proxy_protocol = true;
  options.proxy_header_timeout = patience;
  options.proxied = std::make_shared<ProxiedPeers>();
  return options;
}

void SendText(const UniqueFd& fd, absl::string_view text) {
  ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
}

std::string OwnAddress(const UniqueFd& fd) {
  sockaddr_in address{};
  socklen_t length = sizeof(address);
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
  return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

TEST(AcceptLoopTest, TakesThePeerThatATrustedProxyTellsOf) {
  const AcceptLoop::Options options = BehindProxies(std::chrono::minutes(1));
  Server server(options);
  const std::string header = "PROXY TCP4 203.0.113.9 10.0.0.1 5 6\r\n";
  UniqueFd first = Connect(server.loop().address());
  // A byte at a time; meanwhile others come through.
  for (const char c : header.substr(0, header.size() - 1)) SendText(first, std::string(1, c));
  UniqueFd other = Connect(server.loop().address());
  SendText(other, "PROXY TCP4 203.0.113.10 10.0.0.1 5 6\r\n");
  ASSERT_TRUE(Eventually([&] { return server.peers().size() == 1; }));
  SendText(first, "\nhello");
  ASSERT_TRUE(Eventually([&] { return server.peers().size() == 2; }));
  EXPECT_THAT(server.peers(), ::testing::ElementsAre("203.0.113.10", "203.0.113.9"));
  EXPECT_EQ(options.proxied->Find(OwnAddress(first)), "203.0.113.9");
  // The limit is each client's; the proxy has none.
  UniqueFd again = Connect(server.loop().address());
  SendText(again, header);
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().refused_peer_limit == 1; }));
  UniqueFd check1 = Connect(server.loop().address()), check2 = Connect(server.loop().address());
  SendText(check1, "PROXY UNKNOWN\r\n");
  SendText(check2, "PROXY UNKNOWN\r\nhi");
  ASSERT_TRUE(Eventually([&] { return server.peers().size() == 4; }));
  EXPECT_EQ(server.peers()[3], "127.0.0.1");
  server.CloseAll();
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().live == 0; }));
  EXPECT_EQ(options.proxied->Find(OwnAddress(first)), "");
}

TEST(AcceptLoopTest, LeavesWhatFollowsTheHeader) {
  Server server(BehindProxies(std::chrono::minutes(1)));
  UniqueFd client = Connect(server.loop().address());
  SendText(client, "PROXY TCP4 203.0.113.9 10.0.0.1 5 6\r\nhello");
  ASSERT_TRUE(Eventually([&] { return server.peers().size() == 1; }));
  EXPECT_EQ(server.ReadFirst(), "hello");
}

TEST(AcceptLoopTest, ResetsProxiesWithoutAGoodHeader) {
  Server server(BehindProxies(std::chrono::milliseconds(200)));
  UniqueFd silent = Connect(server.loop().address()), half = Connect(server.loop().address()),
           wrong = Connect(server.loop().address()), gone = Connect(server.loop().address());
  SendText(half, "PROXY TCP4 203.");
  SendText(wrong, "GET / HTTP/1.1\r\n");
  SendText(gone, "PROXY");
  shutdown(gone.get(), SHUT_WR);
  ASSERT_TRUE(Eventually([&] { return server.loop().stats().refused_proxy_header == 4; }));
  EXPECT_EQ(server.loop().stats().live, 0);
  EXPECT_TRUE(server.peers().empty());
}

TEST(AcceptLoopTest, BelievesNobodyElse) {
  AcceptLoop::Options options = BehindProxies(std::chrono::minutes(1));
  options.trusted_proxies = *NetworkList::Parse({"10.0.0.0/8"});
  Server server(options);
  UniqueFd client = Connect(server.loop().address());
  SendText(client, "PROXY TCP4 203.0.113.9 10.0.0.1 5 6\r\n");
  ASSERT_TRUE(Eventually([&] { return server.peers().size() == 1; }));
  EXPECT_EQ(server.peers()[0], "127.0.0.1");
  // Which the server itself gets to see, and does not understand.
  EXPECT_THAT(server.ReadFirst(), HasSubstr("PROXY TCP4"));
}

}  // namespace
}  // namespace qwenserve
