// Any bytes as what a client sends over one connection: the first byte chooses how they are cut
// into packets. However they are cut, the same requests are read, each is answered once, and what
// is written is HTTP; no body is longer than the limit, and when the client has gone, nothing of it
// stays.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/gateway/http/http_connection.h"

namespace {

using qwenserve::HttpConnection;
using qwenserve::HttpExchange;
using qwenserve::HttpHandler;
using qwenserve::HttpLimits;
using qwenserve::HttpLoop;
using qwenserve::HttpRequest;
using qwenserve::HttpResponse;
using qwenserve::HttpShared;
using qwenserve::HttpSocket;

constexpr size_t kMaxBody = 2048;
constexpr int64_t kBudget = 4096;

HttpLimits Limits() {
  HttpLimits limits;
  limits.max_header_bytes = 1024;
  limits.max_body_bytes = kMaxBody;
  limits.max_buffered_bytes = kBudget;
  return limits;
}

// Writes down what it is asked, and answers at once.
class Recorder final : public qwenserve::HttpApplication {
 public:
  std::optional<HttpResponse> Refuse(const HttpRequest& head) override {
    if (head.path == "/refused") return Error(404, "no such path");
    return std::nullopt;
  }
  std::shared_ptr<HttpHandler> Handle(HttpRequest request,
                                      const std::shared_ptr<HttpExchange>& exchange) override {
    if (request.body.size() > kMaxBody || request.path.empty()) std::abort();
    seen.push_back(absl::StrCat(static_cast<int>(request.method()), " ", request.path, " ",
                                request.header("content-type"), " ", request.body));
    HttpResponse response;
    response.body = request.path;
    exchange->Respond(std::move(response));
    return nullptr;
  }
  HttpResponse Error(int status, absl::string_view message) override {
    HttpResponse response;
    response.status = status;
    response.body = std::string(message);
    return response;
  }

  std::vector<std::string> seen;
};

// What the connection writes must be HTTP from its first byte to its last. Returns how many
// requests were answered, refusals left aside: when it is that a malformed request is seen to be
// one may depend on the cut.
size_t CountAnswers(const std::string& output, const std::vector<std::string>& requests) {
  const std::string head_method =
      absl::StrCat(static_cast<int>(boost::beast::http::verb::head), " ");
  size_t answers = 0;
  for (size_t at = 0; at < output.size();) {
    const size_t head_end = output.find("\r\n\r\n", at);
    if (output.compare(at, 9, "HTTP/1.1 ") != 0 || head_end == std::string::npos) std::abort();
    const std::string head = output.substr(at, head_end - at);
    at = head_end + 4;
    if (absl::StartsWith(head, "HTTP/1.1 100 ")) continue;
    const absl::string_view name = "\r\nContent-Length: ";
    const size_t begin = head.find(std::string(name));
    size_t length = 0;
    if (begin == std::string::npos) std::abort();
    const std::string digits = head.substr(begin + name.size());
    if (!absl::SimpleAtoi(digits.substr(0, digits.find('\r')), &length)) std::abort();
    const bool answered = absl::StartsWith(head, "HTTP/1.1 200 ");
    if (answered && answers >= requests.size()) std::abort();
    // A HEAD that is refused has no body either, and it is the last one or another answer follows.
    const bool no_body = answered ? absl::StartsWith(requests[answers], head_method)
                                  : output.compare(at, 9, "HTTP/1.1 ") == 0 || at == output.size();
    if (!no_body) at += length;
    if (at > output.size()) std::abort();
    answers += answered;
  }
  return answers;
}

struct Outcome {
  std::vector<std::string> requests;  // that were read
  bool header_too_long = false;
};

class Session {
 public:
  Session()
      : shared_(
            std::make_shared<HttpShared>(Limits(), &recorder_, nullptr, qwenserve::NetworkList())) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0) std::abort();
    client_ = ends[0];
    loop_ = std::make_shared<HttpLoop>(shared_);
    HttpSocket::Tcp::socket socket(loop_->io());
    // To the connection a stream of bytes is as good as another.
    socket.assign(HttpSocket::Tcp::v4(), ends[1]);
    socket.non_blocking(true);
    auto connection = std::make_shared<HttpConnection>(
        loop_, HttpSocket(std::move(socket), nullptr), "192.0.2.1");
    connection_ = connection;
    connection->Start();
  }

  Outcome Run(const uint8_t* data, size_t size, size_t cut) {
    for (size_t begin = 0; begin < size;) {
      const size_t length = std::min(size - begin, cut == 0 ? size : 1 + (begin * 7 + cut) % cut);
      const ssize_t sent = send(client_, data + begin, length, MSG_NOSIGNAL);
      if (sent > 0) begin += static_cast<size_t>(sent);
      Work();
      if (sent <= 0) break;  // it has closed the connection
    }
    shutdown(client_, SHUT_WR);
    Work();
    close(client_);
    Work();
    if (!connection_.expired()) {
      // Only an unanswered end of a refused connection may outlast the client.
      if (auto left = connection_.lock()) left->CloseIfIdle();
      loop_->CloseAll();
      Work();
    }
    if (!connection_.expired() || shared_->counters.busy != 0) std::abort();
    if (!shared_->budget->Take(kBudget)) std::abort();
    if (CountAnswers(output_, recorder_.seen) != recorder_.seen.size()) std::abort();
    return {recorder_.seen, absl::StrContains(output_, "HTTP/1.1 431 ")};
  }

 private:
  void Work() {
    for (bool progress = true; progress;) {
      loop_->io().restart();
      progress = loop_->io().poll() > 0;
      char buffer[16 << 10];
      for (ssize_t bytes; (bytes = recv(client_, buffer, sizeof(buffer), 0)) > 0;) {
        output_.append(buffer, static_cast<size_t>(bytes));
        progress = true;
      }
    }
  }

  Recorder recorder_;
  std::shared_ptr<HttpShared> shared_;
  std::shared_ptr<HttpLoop> loop_;
  std::weak_ptr<HttpConnection> connection_;
  int client_ = -1;
  std::string output_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 16 << 10) return 0;
  const Outcome whole = Session().Run(data + 1, size - 1, 0);
  const Outcome cut = Session().Run(data + 1, size - 1, data[0]);
  // A header of just the greatest length may be seen as too long when it comes in pieces, and ends
  // the connection then.
  const bool any_too_long = whole.header_too_long || cut.header_too_long;
  const size_t common = std::min(whole.requests.size(), cut.requests.size());
  if (!any_too_long && whole.requests.size() != cut.requests.size()) std::abort();
  if (!std::equal(whole.requests.begin(), whole.requests.begin() + common, cut.requests.begin())) {
    std::abort();
  }
  return 0;
}
