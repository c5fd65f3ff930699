#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_PARSE_THREAD_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_PARSE_THREAD_H_

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <functional>
#include <utility>

namespace qwenserve {

// Where long bodies are parsed: 16 MiB of JSON take a tenth of a second, in which a connection's
// thread would give nobody their tokens. One thread, because a tree of JSON takes many times the
// space of its text: so there is one large tree at a time.
class ParseThread {
 public:
  // Shorter ones are parsed faster than they are handed over.
  static constexpr size_t kLongBody = 32 << 10;

  ~ParseThread() { pool_.join(); }
  void Post(std::function<void()> work) { boost::asio::post(pool_, std::move(work)); }

 private:
  boost::asio::thread_pool pool_{1};
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_PARSE_THREAD_H_
