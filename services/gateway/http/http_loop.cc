#include "services/gateway/http/http_loop.h"

#include <utility>
#include <vector>

#include "services/gateway/http/http_connection.h"

namespace qwenserve {
namespace {

constexpr std::chrono::milliseconds kTick(100);

}  // namespace

HttpLoop::HttpLoop(std::shared_ptr<HttpShared> shared) : shared_(std::move(shared)) {}

void HttpLoop::Add(const std::shared_ptr<HttpConnection>& connection) {
  connections_.emplace(connection.get(), connection);
}

void HttpLoop::Remove(HttpConnection* connection) { connections_.erase(connection); }

void HttpLoop::StartTicking() { Tick(); }

void HttpLoop::StopTicking() {
  stopped_ = true;
  timer_.cancel();
}

void HttpLoop::Tick() {
  const auto now = std::chrono::steady_clock::now();
  std::vector<std::shared_ptr<HttpConnection>> due;
  for (const auto& [raw, connection] : connections_) {
    if (connection->deadline() <= now) due.push_back(connection);
  }
  for (const auto& connection : due) connection->OnDeadline();
  if (stopped_) return;
  timer_.expires_after(kTick);
  timer_.async_wait([this](boost::system::error_code) {
    if (!stopped_) Tick();
  });
}

void HttpLoop::CloseIdle() {
  const auto connections = connections_;
  for (const auto& [raw, connection] : connections) connection->CloseIfIdle();
}

void HttpLoop::CloseAll() {
  const auto connections = connections_;
  for (const auto& [raw, connection] : connections) connection->Abandon();
}

}  // namespace qwenserve
