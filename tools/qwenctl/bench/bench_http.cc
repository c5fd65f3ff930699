#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "boost/asio/connect.hpp"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/post.hpp"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "tools/qwenctl/bench/bench_transport.h"
#include "tools/qwenctl/bench/http_call.h"

namespace qwenserve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;

// One thread has all connections: what a gateway can stream keeps it less than busy.
class HttpTransport final : public BenchTransport {
 public:
  HttpTransport(const BenchOptions& options, const Connection& connection)
      : options_(options), connection_(connection), keep_(asio::make_work_guard(loop_)) {}

  ~HttpTransport() override {
    keep_.reset();
    asio::post(loop_, [this] { idle_.clear(); });
    if (thread_.joinable()) thread_.join();
  }

  absl::StatusOr<Target> Find(const std::string& model) override {
    QS_RETURN_IF_ERROR(Resolve());
    if (connection_.tls()) {
      QS_ASSIGN_OR_RETURN(tls_, HttpTls::Create(connection_));
    }
    QS_ASSIGN_OR_RETURN(const Json models, GetModels());
    const auto data = models.find("data");
    if (data == models.end() || !data->is_array()) {
      return absl::InternalError("/v1/models answers without `data`");
    }
    for (const Json& one : *data) {
      const std::string id = one.value("id", "");
      if (model.empty() ? data->size() == 1 : id == model) {
        thread_ = std::thread([this] { loop_.run(); });
        return Target{id, 0};
      }
    }
    return absl::NotFoundError(model.empty() ? "--model is needed: none or several are served"
                                             : absl::StrCat("model '", model, "' is not served"));
  }

  void Start(const PlannedRequest& planned, const std::string& model, BenchRecorder::Call call,
             std::function<void()> done) override {
    HttpCall::Request request =
        MakeRequest(http::verb::post, options_.chat ? "/v1/chat/completions" : "/v1/completions");
    request.set(http::field::content_type, "application/json");
    request.body() = Body(planned, model).dump();
    request.prepare_payload();
    asio::post(loop_, [this, request = std::move(request), call, done = std::move(done)]() mutable {
      Send(std::move(request), call, std::move(done));
    });
  }

  void CancelAll() override {
    asio::post(loop_, [this] {
      for (HttpCall* call : calls_) call->Cancel();
    });
  }

 private:
  absl::Status Resolve() {
    const std::string& address = connection_.address();
    beast::error_code error;
    Tcp::resolver resolver(loop_);
    const auto found =
        resolver.resolve(connection_.host(), address.substr(address.rfind(':') + 1), error);
    if (error || found.empty()) {
      return absl::UnavailableError(absl::StrCat(address, ": ", error.message()));
    }
    endpoint_ = found.begin()->endpoint();
    return absl::OkStatus();
  }

  absl::StatusOr<Json> GetModels() {
    beast::error_code error;
    HttpLink link(loop_, tls_.get());
    http::response<http::string_body> response;
    link.tcp().connect(endpoint_, error);
    if (!error && link.tls() != nullptr) {
      link.tls()->handshake(asio::ssl::stream_base::client, error);
    }
    link.With([&](auto& stream) {
      if (!error) http::write(stream, MakeRequest(http::verb::get, "/v1/models"), error);
      if (!error) http::read(stream, link.buffer, response, error);
    });
    if (error) return connection_.ExplainNoConnection(error.message());
    if (response.result() == http::status::unauthorized) {
      return connection_.ExplainRefusedKey(
          absl::UnauthenticatedError("the gateway takes no request without a key of its own"));
    }
    if (response.result() != http::status::ok) {
      return absl::FailedPreconditionError(
          absl::StrCat("/v1/models answers ", response.result_int()));
    }
    return ParseJson(response.body(), "/v1/models");
  }

  HttpCall::Request MakeRequest(http::verb verb, const std::string& path) const {
    HttpCall::Request request(verb, path, 11);
    request.set(http::field::host, connection_.address());
    if (const std::string key = connection_.Authorization(); !key.empty()) {
      request.set(http::field::authorization, key);
    }
    return request;
  }

  Json Body(const PlannedRequest& planned, const std::string& model) const {
    Json body = {{"model", model},
                 {"max_tokens", planned.max_tokens},
                 {"seed", planned.seed},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}}}};
    if (!options_.stop_at_eos) body["ignore_eos"] = true;
    if (options_.chat) {
      body["messages"] = {{{"role", "user"}, {"content", planned.prompt_text}}};
    } else {
      body["prompt"] = planned.prompt_text;
    }
    return body;
  }

  // On the loop's thread.
  void Send(HttpCall::Request request, BenchRecorder::Call call, std::function<void()> done) {
    std::unique_ptr<HttpLink> link;
    if (idle_.empty()) {
      link = std::make_unique<HttpLink>(loop_, tls_.get());
    } else {
      link = std::move(idle_.back());
      idle_.pop_back();
    }
    auto http_call = std::make_shared<HttpCall>(
        std::move(link), std::move(request), absl::Seconds(options_.timeout_seconds), call,
        [this, done = std::move(done)](HttpCall* ended, std::unique_ptr<HttpLink> left) {
          calls_.erase(ended);
          if (left != nullptr) idle_.push_back(std::move(left));
          done();
        });
    calls_.insert(http_call.get());
    http_call->Start(endpoint_);
  }

  const BenchOptions options_;
  const Connection& connection_;
  std::unique_ptr<HttpTls> tls_;  // null: none
  asio::io_context loop_{1};
  asio::executor_work_guard<asio::io_context::executor_type> keep_;
  Tcp::endpoint endpoint_;
  // The loop's thread alone.
  std::vector<std::unique_ptr<HttpLink>> idle_;
  std::set<HttpCall*> calls_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<BenchTransport> MakeHttpTransport(const BenchOptions& options,
                                                  const Connection& connection) {
  return std::make_unique<HttpTransport>(options, connection);
}

}  // namespace qwenserve
