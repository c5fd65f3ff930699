#include "tools/qwenctl/metrics_reader.h"

#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http.hpp"

namespace qwenserve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr auto kPatience = std::chrono::seconds(5);

// Runs what was begun on `loop`, which ends at the stream's time limit.
template <typename Begin>
beast::error_code Await(asio::io_context& loop, Begin begin) {
  beast::error_code result;
  begin([&result](beast::error_code error, auto&&...) { result = error; });
  loop.restart();
  loop.run();
  return result;
}

}  // namespace

MetricsSnapshot MetricsSnapshot::Parse(absl::string_view text) {
  MetricsSnapshot snapshot;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const size_t blank = line.rfind(' ');
    double value = 0;
    if (line.front() == '#' || blank == absl::string_view::npos ||
        !absl::SimpleAtod(line.substr(blank + 1), &value)) {
      continue;
    }
    snapshot.series_[std::string(line.substr(0, blank))] = value;
  }
  return snapshot;
}

absl::StatusOr<MetricsSnapshot> MetricsSnapshot::Read(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return absl::InvalidArgumentError("the address has no port");
  std::string host = address.substr(0, colon);
  if (host.size() > 1 && host.front() == '[') host = host.substr(1, host.size() - 2);
  asio::io_context loop;
  beast::error_code error;
  asio::ip::tcp::resolver resolver(loop);
  const auto found = resolver.resolve(host, address.substr(colon + 1), error);
  beast::tcp_stream stream(loop);
  stream.expires_after(kPatience);
  http::request<http::empty_body> request(http::verb::get, "/metrics", 11);
  request.set(http::field::host, address);
  request.set(http::field::connection, "close");
  http::response_parser<http::string_body> response;
  response.body_limit(64u << 20);
  beast::flat_buffer buffer;
  if (!error) error = Await(loop, [&](auto done) { stream.async_connect(found, done); });
  if (!error) error = Await(loop, [&](auto done) { http::async_write(stream, request, done); });
  if (!error) {
    error = Await(loop, [&](auto done) { http::async_read(stream, buffer, response, done); });
  }
  if (error || response.get().result() != http::status::ok) {
    return absl::UnavailableError(
        absl::StrCat("no metrics at ", address, " (", error.message(), ")"));
  }
  return Parse(response.get().body());
}

double MetricsSnapshot::Sum(const std::string& name) const {
  double sum = 0;
  for (auto it = series_.lower_bound(name);
       it != series_.end() && absl::StartsWith(it->first, name); ++it) {
    if (it->first.size() == name.size() || it->first[name.size()] == '{') sum += it->second;
  }
  return sum;
}

std::map<double, double> MetricsSnapshot::Buckets(const std::string& name) const {
  std::map<double, double> buckets;
  const std::string prefix = absl::StrCat(name, "_bucket{");
  for (auto it = series_.lower_bound(prefix);
       it != series_.end() && absl::StartsWith(it->first, prefix); ++it) {
    const size_t begin = it->first.find("le=\"");
    if (begin == std::string::npos) continue;
    const size_t end = it->first.find('"', begin + 4);
    double limit = 0;
    if (!absl::SimpleAtod(it->first.substr(begin + 4, end - begin - 4), &limit)) continue;
    buckets[limit] += it->second;
  }
  return buckets;
}

double MetricsSnapshot::Quantile(const std::string& name, double fraction,
                                 const MetricsSnapshot& before) const {
  std::map<double, double> buckets = Buckets(name);
  for (const auto& [limit, count] : before.Buckets(name)) buckets[limit] -= count;
  const double total = buckets.empty() ? 0 : buckets.rbegin()->second;
  if (total <= 0) return std::numeric_limits<double>::quiet_NaN();
  double low = 0;
  double below = 0;
  for (const auto& [limit, count] : buckets) {
    if (count >= fraction * total && count > below) {
      // Beyond the last limit nothing is known but that.
      if (limit == std::numeric_limits<double>::infinity()) return low;
      return low + (limit - low) * (fraction * total - below) / (count - below);
    }
    low = limit;
    below = count;
  }
  return low;
}

}  // namespace qwenserve
