#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_BODY_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_BODY_H_

#include <algorithm>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/optional.hpp>
#include <cstdint>
#include <string>
#include <utility>

namespace qwenserve {

// Bytes of request bodies that the server holds before a handler has them, over all connections.
class BodyBudget {
 public:
  explicit BodyBudget(int64_t limit) : limit_(limit) {}
  bool Take(int64_t bytes) {
    if (used_.fetch_add(bytes) + bytes <= limit_) return true;
    used_.fetch_sub(bytes);
    return false;
  }
  void GiveBack(int64_t bytes) { used_.fetch_sub(bytes); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

// A body as Beast's parser fills it: grows with what has arrived, never with what the client
// announces, and only as far as the budget of all connections goes.
struct BudgetedBody {
  class value_type {
   public:
    value_type() = default;
    value_type(value_type&& other) noexcept { *this = std::move(other); }
    value_type& operator=(value_type&& other) noexcept {
      std::swap(text_, other.text_);
      std::swap(budget_, other.budget_);
      std::swap(charged_, other.charged_);
      return *this;
    }
    ~value_type() {
      if (budget_ != nullptr) budget_->GiveBack(charged_);
    }

    void SetBudget(BodyBudget* budget) { budget_ = budget; }
    // Room for what comes first, false when the budget is used up.
    bool Append(const char* data, size_t size) {
      if (budget_ != nullptr && !budget_->Take(static_cast<int64_t>(size))) return false;
      charged_ += static_cast<int64_t>(size);
      text_.append(data, size);
      return true;
    }
    std::string TakeText() { return std::move(text_); }

   private:
    std::string text_;
    BodyBudget* budget_ = nullptr;
    int64_t charged_ = 0;
  };

  class reader {
   public:
    template <bool kIsRequest, class Fields>
    reader(boost::beast::http::header<kIsRequest, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>&, boost::beast::error_code& error) { error = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, boost::beast::error_code& error) {
      size_t total = 0;
      error = {};
      for (auto it = boost::asio::buffer_sequence_begin(buffers);
           it != boost::asio::buffer_sequence_end(buffers); ++it) {
        const boost::asio::const_buffer piece(*it);
        if (!body_.Append(static_cast<const char*>(piece.data()), piece.size())) {
          error = boost::system::errc::make_error_code(boost::system::errc::not_enough_memory);
          return total;
        }
        total += piece.size();
      }
      return total;
    }
    void finish(boost::beast::error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_BODY_H_
