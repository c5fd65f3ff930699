#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_LOOP_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_LOOP_H_

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "services/common/net/ip_address.h"
#include "services/common/tls/tls_server_context.h"
#include "services/gateway/http/http_application.h"
#include "services/gateway/http/http_body.h"

namespace qwenserve {

class HttpConnection;

struct HttpLimits {
  uint32_t max_header_bytes = 16 << 10;
  uint64_t max_body_bytes = 16 << 20;
  // Of all bodies that are being received or wait to be parsed.
  int64_t max_buffered_bytes = 256 << 20;
  // Of TLS, from the connection on.
  std::chrono::milliseconds handshake_timeout{10'000};
  // From the first byte of a request to the end of its header, and of its body from there.
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};
  // Between two requests.
  std::chrono::milliseconds idle_timeout{75'000};
  // What ReadPace is made of: how long, in all and at a stretch, an answer may wait for its client,
  // and bytes a second of what it takes that let it wait longer.
  std::chrono::milliseconds write_timeout{60'000};
  int64_t min_read_rate = 4 << 10;
  // In which a client may read the last answer of a connection before it is closed.
  std::chrono::milliseconds linger_timeout{2'000};
  std::chrono::milliseconds quiet_interval{15'000};
};

// Counts since the start, but for `busy` and `live`.
struct HttpCounters {
  std::atomic<int64_t> busy{0};  // requests between their header's end and their answer's end
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> malformed{0};
  std::atomic<uint64_t> timeouts{0};
  std::atomic<uint64_t> handshakes_failed{0};
  std::atomic<uint64_t> abandoned{0};  // the client left before its answer was complete
};

// What the connections of a server share.
struct HttpShared {
  HttpShared(const HttpLimits& limits, HttpApplication* application,
             std::unique_ptr<TlsServerContext> tls, NetworkList trusted_proxies)
      : limits(limits),
        application(application),
        tls(std::move(tls)),
        trusted_proxies(std::move(trusted_proxies)) {}
  const HttpLimits limits;
  HttpApplication* const application;
  const std::unique_ptr<TlsServerContext> tls;  // null: in the clear
  const NetworkList trusted_proxies;            // whose X-Forwarded-For counts
  const std::shared_ptr<BodyBudget> budget =
      std::make_shared<BodyBudget>(limits.max_buffered_bytes);
  HttpCounters counters;
  std::atomic<bool> draining{false};
};

// A thread's connections. Every time-out is found by looking through them a few times a second,
// which costs less than a timer for each. All of it is used on that thread, but for `io`.
class HttpLoop : public std::enable_shared_from_this<HttpLoop> {
 public:
  explicit HttpLoop(std::shared_ptr<HttpShared> shared);

  boost::asio::io_context& io() { return io_; }
  HttpShared& shared() { return *shared_; }

  // Keeps it until Remove, which its Close calls.
  void Add(const std::shared_ptr<HttpConnection>& connection);
  void Remove(HttpConnection* connection);
  // Closes connections without a request, or all of them.
  void CloseIdle();
  void CloseAll();

  void StartTicking();
  void StopTicking();

 private:
  void Tick();

  const std::shared_ptr<HttpShared> shared_;
  boost::asio::io_context io_{1};
  boost::asio::steady_timer timer_{io_};
  bool stopped_ = false;
  std::unordered_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_LOOP_H_
