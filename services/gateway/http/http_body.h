#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_BODY_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_BODY_H_

#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/optional.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace qwenserve {

// Bytes of request bodies, over all connections, from their arrival until a handler needs them no
// more. Thread-safe.
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

// What one body has taken of the budget, until it is destroyed.
class BodyCharge {
 public:
  explicit BodyCharge(std::shared_ptr<BodyBudget> budget) : budget_(std::move(budget)) {}
  BodyCharge(const BodyCharge&) = delete;
  BodyCharge& operator=(const BodyCharge&) = delete;
  ~BodyCharge() { budget_->GiveBack(bytes_); }

  // False when the budget is used up.
  bool Take(int64_t bytes) {
    if (!budget_->Take(bytes)) return false;
    bytes_ += bytes;
    return true;
  }

 private:
  const std::shared_ptr<BodyBudget> budget_;
  int64_t bytes_ = 0;
};

// A body as Beast's parser fills it: grows with what has arrived, never with what the client
// announces, and only as far as the budget of all connections goes.
struct BudgetedBody {
  class value_type {
   public:
    void SetBudget(std::shared_ptr<BodyBudget> budget) {
      charge_ = std::make_shared<BodyCharge>(std::move(budget));
    }
    // Room for what comes first, false when the budget is used up.
    bool Append(const char* data, size_t size) {
      if (charge_ != nullptr && !charge_->Take(static_cast<int64_t>(size))) return false;
      text_.append(data, size);
      return true;
    }
    std::string TakeText() { return std::move(text_); }
    std::shared_ptr<const BodyCharge> charge() const { return charge_; }

   private:
    std::string text_;
    std::shared_ptr<BodyCharge> charge_;
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
