#include "services/common/ops/ops_server.h"

#include <atomic>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/services/common/test_client.h"

namespace qwenserve {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class OpsServerTest : public ::testing::Test {
 protected:
  void Start(const OpsServer::Options& options) {
    OpsServer::Handlers handlers;
    handlers.live = [] { return absl::OkStatus(); };
    handlers.ready = [this] {
      return ready_ ? absl::OkStatus() : absl::UnavailableError("still loading");
    };
    handlers.metrics = [] { return std::string("a_metric 1\n"); };
    handlers.http2 = [this](int fd, const std::string& received) {
      // As an owner that ends it at once: what it reads, and an answer.
      handed_on_ = received;
      EXPECT_EQ(send(fd, "taken", 5, MSG_NOSIGNAL), 5);
      shutdown(fd, SHUT_RDWR);
      close(fd);
    };
    auto server = OpsServer::Start(*BindSocket("127.0.0.1:0"), options, std::move(handlers));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }

  std::string Exchange(const std::string& request) {
    UniqueFd fd = Connect(server_->address());
    send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
    return ReadAll(fd.get());
  }
  std::string Get(const std::string& path) {
    return Exchange("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  }

  std::string handed_on_;
  std::atomic<bool> ready_{false};
  std::unique_ptr<OpsServer> server_;
};

TEST_F(OpsServerTest, AnswersProbesAndScrapes) {
  Start({});
  EXPECT_THAT(Get("/livez"), AllOf(StartsWith("HTTP/1.1 200"), EndsWith("\r\n\r\nok\n")));
  EXPECT_THAT(Get("/readyz"), AllOf(StartsWith("HTTP/1.1 503"), EndsWith("still loading\n")));
  ready_ = true;
  EXPECT_THAT(Get("/readyz?verbose"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/metrics"),
              AllOf(HasSubstr("text/plain; version=0.0.4"), EndsWith("\r\n\r\na_metric 1\n")));
  EXPECT_THAT(Get("/metrics/"), StartsWith("HTTP/1.1 404"));
}

TEST_F(OpsServerTest, HeadHasTheLengthButNoBody) {
  Start({});
  EXPECT_THAT(
      Exchange("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
      AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("Content-Length: 11\r\n"), EndsWith("\r\n\r\n")));
}

TEST_F(OpsServerTest, KeepsAConnectionForSeveralRequests) {
  Start({});
  const std::string answers = Exchange(
      "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
      "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answers, AllOf(HasSubstr("ok\n"), EndsWith("a_metric 1\n")));
}

TEST_F(OpsServerTest, RefusesWhatItDoesNotServe) {
  Start({});
  EXPECT_THAT(Exchange("DELETE /metrics HTTP/1.1\r\nConnection: close\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 405"), HasSubstr("Allow: GET, HEAD")));
  EXPECT_THAT(Exchange("POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n"),
              StartsWith("HTTP/1.1 400"));
  EXPECT_EQ(Exchange("no http at all\r\n\r\n"), "");
}

TEST_F(OpsServerTest, LargeHeadersAreRefused) {
  Start({.timeout = absl::Seconds(1)});
  EXPECT_THAT(Exchange("GET /livez HTTP/1.1\r\nX: " + std::string(8000, 'x')),
              Not(HasSubstr("400")));
  EXPECT_THAT(Exchange("GET /livez HTTP/1.1\r\nX: " + std::string(9000, 'x') + "\r\n\r\n"),
              ::testing::AnyOf(StartsWith("HTTP/1.1 400"), "RESET"));
}

TEST_F(OpsServerTest, SlowClientsAreLetGo) {
  Start({.timeout = absl::Milliseconds(200)});
  EXPECT_EQ(Exchange("GET /livez HTTP/1.1\r\n"), "");
}

TEST_F(OpsServerTest, Http2IsHandedOnWithWhatWasRead) {
  Start({.max_connections = 1});
  const std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand more";
  // One after the other: each counts no longer than it lives.
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Eventually([&] { return Exchange(preface) == "taken"; }));
    EXPECT_EQ(handed_on_, preface);
  }
  EXPECT_TRUE(Eventually([&] { return Get("/livez").find("200") != std::string::npos; }));
  EXPECT_EQ(Exchange("PRI * HTTP/1.1\r\n\r\n").find("taken"), std::string::npos);
}

TEST_F(OpsServerTest, ConnectionsAreBounded) {
  Start({.max_connections = 2, .timeout = absl::Seconds(60)});
  UniqueFd first = Connect(server_->address());
  UniqueFd second = Connect(server_->address());
  // The third is closed as long as the others are open.
  EXPECT_EQ(Exchange(""), "");
  first.reset();
  EXPECT_TRUE(Eventually([&] { return Get("/livez").find("200") != std::string::npos; }));
}

}  // namespace
}  // namespace qwenserve
