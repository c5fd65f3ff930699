#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_HTTP_CALL_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_HTTP_CALL_H_

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/http.hpp"
#include "tools/qwenctl/bench/bench_recorder.h"
#include "tools/qwenctl/bench/http_link.h"
#include "tools/qwenctl/bench/sse_reader.h"

namespace qwenserve {

// One POST whose answer is a stream of events, on the loop's thread. Lives as long as it has
// something under way.
class HttpCall : public std::enable_shared_from_this<HttpCall> {
 public:
  using Request = boost::beast::http::request<boost::beast::http::string_body>;
  // `link` is null when the connection cannot be used again.
  using OnEnd = std::function<void(HttpCall* call, std::unique_ptr<HttpLink> link)>;

  HttpCall(std::unique_ptr<HttpLink> link, Request request, absl::Duration timeout,
           BenchRecorder::Call recorder, OnEnd on_end);
  void Start(const boost::asio::ip::tcp::endpoint& endpoint);
  void Cancel();

 private:
  using Error = boost::beast::error_code;
  void Handshake();
  void Write();
  void ReadHead();
  void ReadBody();
  void TakeBody(size_t bytes);
  void OnData(absl::string_view data);
  void End(const std::string& error);
  static std::string NameOf(Error error);

  std::unique_ptr<HttpLink> link_;
  const Request request_;
  const absl::Duration timeout_;
  BenchRecorder::Call recorder_;
  OnEnd on_end_;
  boost::beast::http::response_parser<boost::beast::http::buffer_body> parser_;
  std::array<char, 16384> body_;
  SseReader events_;
  bool stream_done_ = false;
  bool ended_ = false;
  std::string error_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_HTTP_CALL_H_
