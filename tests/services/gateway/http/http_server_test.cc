// The HTTP server over real sockets, with an application that echoes.

#include "services/gateway/http/http_server.h"

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/gateway/http/openai_error.h"
#include "tests/services/gateway/http/raw_client.h"

namespace qwenserve {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr char kGet[] = "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n";
constexpr char kPost[] = "POST /echo HTTP/1.1\r\nHost: x\r\n";

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 4000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return false;
}

// Sends the pieces "0", "1", "2".
class Counting final : public HttpHandler {
 public:
  explicit Counting(const std::shared_ptr<HttpExchange>& exchange) : exchange_(exchange) {
    HttpResponse head;
    head.content_type = "text/event-stream";
    exchange->StartStream(std::move(head));
    SendNext();
  }
  void OnSent() override { SendNext(); }
  void OnClientGone() override {}
  void OnQuiet() override {}

 private:
  void SendNext() {
    piece_ = absl::StrCat(next_++);
    if (auto exchange = exchange_.lock()) exchange->Send(piece_, next_ == 3);
  }
  const std::weak_ptr<HttpExchange> exchange_;
  int next_ = 0;
  std::string piece_;
};

// Never answers, but sends a comment whenever it has been quiet.
class Waiting final : public HttpHandler {
 public:
  Waiting(const std::shared_ptr<HttpExchange>& exchange, std::atomic<int>* gone)
      : exchange_(exchange), gone_(gone) {}
  void OnSent() override {}
  void OnClientGone() override { ++*gone_; }
  void OnQuiet() override {
    auto exchange = exchange_.lock();
    if (exchange == nullptr) return;
    if (!begun_) exchange->StartStream(HttpResponse());
    begun_ = true;
    exchange->Send(": quiet\n\n", false);
  }

 private:
  const std::weak_ptr<HttpExchange> exchange_;
  std::atomic<int>* const gone_;
  bool begun_ = false;
};

// Sends without end.
class Flooding final : public HttpHandler {
 public:
  Flooding(const std::shared_ptr<HttpExchange>& exchange, std::atomic<int>* gone,
           std::atomic<int>* slow)
      : exchange_(exchange), gone_(gone), slow_(slow) {
    exchange->StartStream(HttpResponse());
    OnSent();
  }
  void OnSent() override {
    if (auto exchange = exchange_.lock()) exchange->Send(piece_, false);
  }
  void OnClientGone() override { ++*gone_; }
  void OnSlowClient() override { ++*slow_; }
  void OnQuiet() override {}

 private:
  const std::weak_ptr<HttpExchange> exchange_;
  std::atomic<int>* const gone_;
  std::atomic<int>* const slow_;
  const std::string piece_ = std::string(64 << 10, 'f');
};

class EchoApplication final : public HttpApplication {
 public:
  std::optional<HttpResponse> Refuse(const HttpRequest& head) override {
    if (head.path == "/refused") return Error(403, "not you");
    return std::nullopt;
  }
  std::shared_ptr<HttpHandler> Handle(HttpRequest request,
                                      const std::shared_ptr<HttpExchange>& exchange) override {
    ++handled;
    if (request.path == "/stream") return std::make_shared<Counting>(exchange);
    if (request.path == "/flood") return std::make_shared<Flooding>(exchange, &gone, &slow);
    if (request.path == "/keep") {
      absl::MutexLock lock(&mutex);
      kept.push_back(std::move(request));
      return std::make_shared<Waiting>(exchange, &gone);
    }
    if (request.path == "/wait") return std::make_shared<Waiting>(exchange, &gone);
    HttpResponse response;
    response.body = request.path == "/big"
                        ? std::string(64 << 20, 'b')
                        : absl::StrCat("<", request.path, ":", request.body, ">");
    exchange->Respond(std::move(response));
    return nullptr;
  }
  HttpResponse Error(int status, absl::string_view message) override {
    return OpenAiErrorResponse(status, message);
  }
  std::atomic<int> handled{0};
  std::atomic<int> gone{0};
  std::atomic<int> slow{0};
  absl::Mutex mutex;
  std::vector<HttpRequest> kept ABSL_GUARDED_BY(mutex);
};

class HttpServerTest : public testing::Test {
 protected:
  void Start(const HttpServer::Options& options = {}) {
    auto socket = BindSocket("127.0.0.1:0");
    ASSERT_TRUE(socket.ok()) << socket.status();
    auto server = HttpServer::Start(*std::move(socket), options, &application_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // The answer to bytes after which the server closes the connection.
  std::string Exchange(absl::string_view bytes) {
    RawClient client(server_->address());
    client.Send(bytes);
    const std::string answer = client.ReadAll();
    EXPECT_TRUE(client.closed()) << "the connection must not stay open";
    return answer;
  }

  EchoApplication application_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, KeepsAConnectionForFurtherRequests) {
  Start();
  RawClient client(server_->address());
  for (int i = 0; i < 3; ++i) {
    client.Forget();
    ASSERT_TRUE(client.Send(absl::StrCat(kPost, "Content-Length: 1\r\n\r\n", i)));
    EXPECT_THAT(client.ReadUntil(">"), HasSubstr(absl::StrCat("</echo:", i, ">")));
  }
  EXPECT_EQ(server_->counters().requests, 3u);
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  Start();
  RawClient client(server_->address());
  std::string all;
  for (int i = 0; i < 50; ++i) {
    absl::StrAppend(&all, kPost, "Content-Length: 2\r\n\r\n", i + 10);
  }
  ASSERT_TRUE(client.Send(all));
  const std::string answers = client.ReadUntil("</echo:59>");
  size_t from = 0;
  for (int i = 0; i < 50; ++i) {
    from = answers.find(absl::StrCat("</echo:", i + 10, ">"), from);
    ASSERT_NE(from, std::string::npos) << i;
  }
}

TEST_F(HttpServerTest, TakesRequestsByteByByte) {
  Start();
  RawClient client(server_->address());
  for (const char c :
       absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")) {
    ASSERT_TRUE(client.Send(absl::string_view(&c, 1)));
  }
  EXPECT_THAT(client.ReadUntil(">"), HasSubstr("</echo:abc>"));
}

TEST_F(HttpServerTest, TakesTheLastChunkInAnyPieces) {
  Start();
  for (const absl::string_view body : {"0\r\n\r\n", "0\r\nA: b\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"}) {
    for (size_t first = 1; first < body.size(); ++first) {
      RawClient client(server_->address());
      client.Send(absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n"));
      // Time enough for the server to read each piece by itself, mostly.
      for (const absl::string_view piece : {body.substr(0, first), body.substr(first, 1)}) {
        absl::SleepFor(absl::Milliseconds(5));
        ASSERT_TRUE(client.Send(piece));
      }
      absl::SleepFor(absl::Milliseconds(5));
      client.Send(body.substr(first + 1));
      EXPECT_THAT(client.ReadUntil(">"), HasSubstr("200 OK")) << body << " cut at " << first;
    }
  }
}

TEST_F(HttpServerTest, StreamsInChunks) {
  Start();
  RawClient client(server_->address());
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"),
              HasSubstr("\r\n\r\n1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n"));
  client.Forget();
  client.Send(kGet);
  EXPECT_THAT(client.ReadUntil(">"), HasSubstr("200 OK"));
}

TEST_F(HttpServerTest, StreamsToAnOldClientUntilTheEnd) {
  Start();
  const std::string answer = Exchange("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Connection: close\r\n\r\n012"));
  EXPECT_THAT(answer, Not(HasSubstr("chunked")));
}

TEST_F(HttpServerTest, HeadHasTheLengthAndNoBody) {
  Start();
  RawClient client(server_->address());
  client.Send("HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("Content-Length: 8"));
  client.Forget();
  client.Send(kGet);
  EXPECT_THAT(client.ReadUntil(">"), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, SaysContinueBeforeTheBody) {
  Start();
  RawClient client(server_->address());
  client.Send(absl::StrCat(kPost, "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("hi");
  EXPECT_THAT(client.ReadUntil(">"), HasSubstr("</echo:hi>"));
  EXPECT_THAT(Exchange(absl::StrCat(kPost, "Expect: wonders\r\nContent-Length: 2\r\n\r\n")),
              StartsWith("HTTP/1.1 417"));
}

TEST_F(HttpServerTest, RefusesBeforeTheBodyIsSent) {
  Start();
  const std::string answer = Exchange(
      "POST /refused HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9999\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(answer, HasSubstr("Connection: close"));
  EXPECT_EQ(application_.handled, 0);
}

TEST_F(HttpServerTest, ARefusalWithoutABodyLeavesTheConnectionOpen) {
  Start();
  RawClient client(server_->address());
  client.Send("GET /refused HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("not you"), HasSubstr("Connection: keep-alive"));
  client.Send(kGet);
  EXPECT_THAT(client.ReadUntil(">"), HasSubstr("</echo:>"));
}

// Framings that two programs may read differently, and other things that are not HTTP.
TEST_F(HttpServerTest, RefusesWhatIsNotPlain) {
  Start();
  const std::vector<std::pair<std::string, std::string>> kCases = {
      {"both lengths",
       absl::StrCat(kPost, "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")},
      {"both, the other way",
       absl::StrCat(kPost, "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n")},
      {"two lengths", absl::StrCat(kPost, "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde")},
      {"a list of lengths", absl::StrCat(kPost, "Content-Length: 4, 5\r\n\r\nabcde")},
      {"a signed length", absl::StrCat(kPost, "Content-Length: +4\r\n\r\nabcd")},
      {"a negative length", absl::StrCat(kPost, "Content-Length: -1\r\n\r\n")},
      {"a length beyond 64 bits",
       absl::StrCat(kPost, "Content-Length: 99999999999999999999\r\n\r\n")},
      {"another encoding", absl::StrCat(kPost, "Transfer-Encoding: gzip\r\n\r\n")},
      {"chunked, but not last",
       absl::StrCat(kPost, "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n")},
      {"two encodings", absl::StrCat(kPost, "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")},
      {"two encoding fields",
       absl::StrCat(kPost,
                    "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")},
      {"an encoding in disguise",
       absl::StrCat(kPost, "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")},
      {"chunks for HTTP/1.0", "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {"a negative chunk",
       absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n")},
      {"a chunk beyond 64 bits",
       absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nx\r\n")},
      {"a chunk that is longer than it says",
       absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n")},
      {"a chunk size without end",
       absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n1;", std::string(200000, 'x'))},
      {"no host", "GET /echo HTTP/1.1\r\n\r\n"},
      {"two hosts", "GET /echo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"},
      {"a space before the colon", "GET /echo HTTP/1.1\r\nHost : x\r\n\r\n"},
      {"a bare line feed", "GET /echo HTTP/1.1\nHost: x\n\n"},
      {"a bare carriage return", "GET /echo HTTP/1.1\r\nHost: x\rContent-Length: 5\r\n\r\n"},
      {"NUL in a value", std::string("GET /echo HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 39)},
      {"a target that is no path", "GET echo HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
      {"TLS", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11)},
  };
  for (const auto& [name, bytes] : kCases) {
    const std::string answer = Exchange(bytes);
    EXPECT_TRUE(
        absl::StartsWith(answer, "HTTP/1.1 400") || absl::StartsWith(answer, "HTTP/1.1 501") ||
        absl::StartsWith(answer, "HTTP/1.1 413") || absl::StartsWith(answer, "HTTP/1.1 431"))
        << name << ": " << answer;
    EXPECT_THAT(answer, HasSubstr("\"error\"")) << name;
  }
  EXPECT_EQ(application_.handled, 0);
}

// A line break in a value begins another field, and never one of the answer.
TEST_F(HttpServerTest, ValuesDoNotReachTheAnswer) {
  Start();
  const std::string answer = Exchange(
      "GET /echo%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\n X-Evil: 1\r\n"
      "Connection: close\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer.substr(0, answer.find("\r\n\r\n")), Not(HasSubstr("Evil")));
}

TEST_F(HttpServerTest, LimitsTheHeader) {
  Start();
  EXPECT_THAT(
      Exchange(absl::StrCat("GET /echo HTTP/1.1\r\nHost: x\r\nA: ", std::string(17000, 'a'))),
      StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(Exchange(absl::StrCat("GET /", std::string(17000, 'a'))), StartsWith("HTTP/1.1 431"));
  std::string many = "GET /echo HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 10000; ++i) absl::StrAppend(&many, "h", i, ": v\r\n");
  EXPECT_THAT(Exchange(many + "\r\n"), StartsWith("HTTP/1.1 431"));
}

TEST_F(HttpServerTest, LimitsTheBody) {
  HttpServer::Options options;
  options.limits.max_body_bytes = 1000;
  Start(options);
  EXPECT_THAT(Exchange(absl::StrCat(kPost, "Content-Length: 1001\r\n\r\n")),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Exchange(absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n3e9\r\n",
                                    std::string(1001, 'x'), "\r\n0\r\n\r\n")),
              StartsWith("HTTP/1.1 413"));
  std::string chunks = absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 2000; ++i) absl::StrAppend(&chunks, "1\r\nx\r\n");
  EXPECT_THAT(Exchange(chunks), StartsWith("HTTP/1.1 413"));
  RawClient client(server_->address());
  client.Send(absl::StrCat(kPost, "Content-Length: 1000\r\n\r\n", std::string(1000, 'x')));
  EXPECT_THAT(client.ReadUntil(">"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, LimitsAllBodiesTogether) {
  HttpServer::Options options;
  options.limits.max_buffered_bytes = 3000;
  Start(options);
  std::optional<RawClient> first;
  std::string answer;
  // Whose bytes come first is not settled: the other one is refused.
  ASSERT_TRUE(Eventually([&] {
    first.emplace(server_->address());
    first->Send(absl::StrCat(kPost, "Content-Length: 2001\r\n\r\n", std::string(2000, 'x')));
    RawClient another(server_->address());
    another.Send(absl::StrCat(kPost, "Content-Length: 1500\r\nConnection: close\r\n\r\n",
                              std::string(1500, 'y')));
    answer = another.ReadAll();
    return absl::StartsWith(answer, "HTTP/1.1 503");
  }));
  EXPECT_THAT(answer, HasSubstr("Retry-After"));
  first->Send("z");
  EXPECT_THAT(first->ReadUntil(">"), StartsWith("HTTP/1.1 200"));
  // The answer may arrive before the first body is let go.
  EXPECT_TRUE(Eventually([&] {
    RawClient second(server_->address());
    second.Send(absl::StrCat(kPost, "Content-Length: 2500\r\nConnection: close\r\n\r\n",
                             std::string(2500, 'y')));
    return absl::StartsWith(second.ReadAll(), "HTTP/1.1 200");
  }));
}

TEST_F(HttpServerTest, CountsABodyUntilItsHandlerIsDoneWithIt) {
  HttpServer::Options options;
  options.limits.max_buffered_bytes = 3000;
  Start(options);
  RawClient first(server_->address());
  first.Send(absl::StrCat("POST /keep HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n",
                          std::string(2000, 'x')));
  ASSERT_TRUE(Eventually([&] { return application_.handled == 1; }));
  const std::string second = absl::StrCat(
      kPost, "Content-Length: 1500\r\nConnection: close\r\n\r\n", std::string(1500, 'y'));
  EXPECT_THAT(Exchange(second), StartsWith("HTTP/1.1 503"));
  {
    absl::MutexLock lock(&application_.mutex);
    application_.kept.clear();
  }
  EXPECT_THAT(Exchange(second), StartsWith("HTTP/1.1 200"));
}

class SlowClientTest : public HttpServerTest {
 protected:
  void SetUp() override {
    HttpServer::Options options;
    options.limits.header_timeout = milliseconds(1000);
    options.limits.body_timeout = milliseconds(1000);
    options.limits.idle_timeout = milliseconds(1000);
    options.limits.write_timeout = milliseconds(1000);
    options.limits.min_read_rate = 8 << 20;
    options.limits.quiet_interval = milliseconds(100);
    Start(options);
  }
};

TEST_F(SlowClientTest, AHeaderMustBeCompleteInTime) {
  RawClient client(server_->address());
  client.Send("GET /echo HTTP/1.1\r\n");
  // Each byte in time does not help: the whole counts.
  for (int i = 0; i < 1000 && client.Send("a"); ++i) {
    std::this_thread::sleep_for(milliseconds(20));
    if (server_->counters().timeouts > 0) break;
  }
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 408"));
  EXPECT_TRUE(client.closed());
}

TEST_F(SlowClientTest, ABodyMustBeCompleteInTime) {
  EXPECT_THAT(Exchange(absl::StrCat(kPost, "Content-Length: 100\r\n\r\nabc")),
              StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(Exchange(absl::StrCat(kPost, "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")),
              StartsWith("HTTP/1.1 408"));
  EXPECT_EQ(application_.handled, 0);
}

TEST_F(SlowClientTest, AnIdleConnectionIsClosed) {
  EXPECT_EQ(Exchange(""), "");
  RawClient client(server_->address());
  client.Send(kGet);
  EXPECT_THAT(client.ReadAll(), HasSubstr("</echo:>"));
  EXPECT_TRUE(client.closed());
}

TEST_F(SlowClientTest, AnAnswerThatIsNotReadEndsTheConnection) {
  RawClient client(server_->address());
  client.Send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(Eventually([&] { return server_->counters().abandoned == 1; }));
  EXPECT_TRUE(Eventually([&] { return server_->accept_stats().live == 0; }));
  EXPECT_EQ(server_->in_flight(), 0);
}

// Something within each time-out, and still too slow.
TEST_F(SlowClientTest, AnAnswerThatIsReadTooSlowlyEndsTheConnection) {
  RawClient client(server_->address());
  client.Send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(Eventually([&] {
    client.Read(8192);
    return server_->counters().timeouts == 1;
  }));
  EXPECT_TRUE(Eventually([&] { return server_->accept_stats().live == 0; }));
}

TEST_F(SlowClientTest, WhoDoesNotReadIsToldFromWhoLeaves) {
  RawClient leaves(server_->address());
  leaves.Send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
  leaves.ReadUntil("200 OK");
  leaves.Close();
  EXPECT_TRUE(Eventually([&] { return application_.gone == 1; }));
  EXPECT_EQ(application_.slow, 0);
  RawClient stays(server_->address());
  stays.Send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(Eventually([&] { return application_.slow == 1; }));
  EXPECT_EQ(application_.gone, 1);
}

TEST_F(SlowClientTest, AQuietStreamSendsComments) {
  RawClient client(server_->address());
  client.Send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  client.ReadUntil(": quiet");
  client.Forget();
  EXPECT_THAT(client.ReadUntil(": quiet"), HasSubstr(": quiet"));
}

TEST_F(SlowClientTest, ManyRequestsBehindAStreamWaitAndEndNothing) {
  RawClient client(server_->address());
  std::string bytes = "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n";
  for (int i = 0; i < 3000; ++i) bytes += kGet;
  ASSERT_TRUE(client.Send(bytes));
  client.ReadUntil("quiet");
  client.Forget();
  EXPECT_THAT(client.ReadUntil("quiet"), HasSubstr(": quiet"));
  EXPECT_EQ(server_->in_flight(), 1);
  client.Close();
  EXPECT_TRUE(Eventually([&] { return application_.gone == 1; }));
  EXPECT_TRUE(Eventually([&] { return server_->in_flight() == 0; }));
  EXPECT_TRUE(Eventually([&] { return server_->accept_stats().live == 0; }));
}

TEST_F(HttpServerTest, SeesThatAClientLeaves) {
  Start();
  RawClient closes(server_->address());
  closes.Send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  RawClient half(server_->address());
  half.Send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return server_->in_flight() == 2; }));
  closes.Close();
  half.FinishSending();
  EXPECT_TRUE(Eventually([&] { return application_.gone == 2; }));
  EXPECT_TRUE(Eventually([&] { return server_->in_flight() == 0; }));
  EXPECT_TRUE(Eventually([&] { return server_->accept_stats().live == 0; }));
}

TEST_F(HttpServerTest, CapsConnectionsAndServesWhenTheyEnd) {
  HttpServer::Options options;
  options.accept.max_connections = 4;
  Start(options);
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->address()));
    clients.back()->Send(kGet);
    EXPECT_THAT(clients.back()->ReadUntil(">"), StartsWith("HTTP/1.1 200"));
  }
  RawClient refused(server_->address());
  refused.Send(kGet);
  EXPECT_EQ(refused.ReadAll(), "");
  EXPECT_EQ(server_->accept_stats().refused_limit, 1u);
  clients.clear();
  ASSERT_TRUE(Eventually([&] { return server_->accept_stats().live == 0; }));
  RawClient client(server_->address());
  client.Send(kGet);
  EXPECT_THAT(client.ReadUntil(">"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, DrainsWithoutCuttingAnybodyOff) {
  Start();
  RawClient idle(server_->address());
  idle.Send(kGet);
  idle.ReadUntil(">");
  RawClient busy(server_->address());
  busy.Send(absl::StrCat(kPost, "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
  ASSERT_THAT(busy.ReadUntil("\r\n\r\n"), HasSubstr("100 Continue"));  // its header is read
  busy.Forget();
  busy.Send("a");
  server_->Drain();
  RawClient late(server_->address());
  late.Send(kGet);
  EXPECT_THAT(late.ReadAll(), HasSubstr("Connection: close"));
  server_->StopAccepting();
  idle.ReadAll();
  EXPECT_TRUE(idle.closed());
  busy.Send("b");
  EXPECT_THAT(busy.ReadAll(), HasSubstr("</echo:ab>"));
}

TEST_F(HttpServerTest, EndsWithRequestsInFlight) {
  Start();
  RawClient client(server_->address());
  client.Send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return server_->in_flight() == 1; }));
  server_.reset();
  EXPECT_EQ(application_.gone, 1);
  client.ReadAll();
  EXPECT_TRUE(client.closed());
}

}  // namespace
}  // namespace qwenserve
