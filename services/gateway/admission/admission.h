#ifndef QWENSERVE_SERVICES_GATEWAY_ADMISSION_ADMISSION_H_
#define QWENSERVE_SERVICES_GATEWAY_ADMISSION_ADMISSION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/gateway/metrics/gateway_metrics.h"

namespace qwenserve {

// The gateway's door: how many requests, and how many bytes of them, may be inside at a time.
// Refuses at once, with RESOURCE_EXHAUSTED, reason QUEUE_FULL, and RetryInfo, rather than keeping
// anyone waiting for nothing. Thread-safe.
class Admission {
 public:
  struct Limits {
    int64_t max_requests = 4096;
    // Of the requests as sent, since their ids and answers are of the same order; for what is not,
    // see Ticket::Grow.
    int64_t max_bytes = 256 << 20;
  };

  // A place inside, given back by destruction. The Admission must outlive it.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Admission* admission, int64_t bytes) : admission_(admission), bytes_(bytes) {}
    Ticket(Ticket&& other) noexcept { *this = std::move(other); }
    Ticket& operator=(Ticket&& other) noexcept {
      std::swap(admission_, other.admission_);
      std::swap(bytes_, other.bytes_);
      std::swap(reserved_, other.reserved_);
      return *this;
    }
    ~Ticket() {
      if (admission_ != nullptr) admission_->Leave(bytes_);
    }

    // The request will hold so many bytes more, until the ticket goes. Errors as of Enter, and
    // nothing has changed then.
    absl::Status Grow(size_t bytes);
    // Grow in two steps: what may be needed, and later what is, which takes from the former first.
    absl::Status Reserve(size_t bytes);
    absl::Status Use(size_t bytes);
    // As Grow, for what a running request can't do without: never refused, but there is less room
    // for newcomers.
    void Hold(size_t bytes);

   private:
    Admission* admission_ = nullptr;
    int64_t bytes_ = 0;
    size_t reserved_ = 0;  // of bytes_, and not used yet
  };

  explicit Admission(const Limits& limits, GatewayMetrics* metrics = nullptr)
      : limits_(limits), metrics_(metrics) {}

  // RESOURCE_EXHAUSTED, reason QUEUE_FULL, with RetryInfo, when the gateway is full.
  absl::StatusOr<Ticket> Enter(size_t bytes);

  int64_t in_flight() const;
  int64_t bytes() const;

 private:
  absl::Status Add(int64_t bytes);
  void Hold(int64_t bytes);
  void Leave(int64_t bytes);

  absl::Status Full(GatewayMetrics::Shed shed, int64_t inside, int64_t limit) const;

  const Limits limits_;
  GatewayMetrics* const metrics_;
  mutable absl::Mutex mutex_;
  int64_t requests_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ADMISSION_ADMISSION_H_
