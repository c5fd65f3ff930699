#include "services/gateway/admission/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/admission/retry_delay.h"

namespace qwenserve {
absl::Status Admission::Full(GatewayMetrics::Shed shed, int64_t inside, int64_t limit) const {
  if (metrics_ != nullptr) metrics_->sheds[shed]->Increment();
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat("the gateway is full: ", inside, " of ", limit,
                   shed == GatewayMetrics::kShedBytes ? " bytes" : " requests", " in flight"));
  return WithRetryAfter(WithReason(status, kReasonQueueFull), RetryDelay(absl::Seconds(1)));
}

absl::StatusOr<Admission::Ticket> Admission::Enter(size_t bytes) {
  const int64_t size = static_cast<int64_t>(bytes);
  absl::MutexLock lock(&mutex_);
  if (requests_ >= limits_.max_requests) {
    return Full(GatewayMetrics::kShedRequests, requests_, limits_.max_requests);
  }
  // A single request is never too large for an empty gateway: its own limit is elsewhere.
  if (requests_ > 0 && bytes_ + size > limits_.max_bytes) {
    return Full(GatewayMetrics::kShedBytes, bytes_, limits_.max_bytes);
  }
  ++requests_;
  bytes_ += size;
  return Ticket(this, size);
}

absl::Status Admission::Ticket::Grow(size_t bytes) {
  if (absl::Status status = admission_->Add(static_cast<int64_t>(bytes)); !status.ok()) {
    return status;
  }
  bytes_ += static_cast<int64_t>(bytes);
  return absl::OkStatus();
}

absl::Status Admission::Ticket::Reserve(size_t bytes) {
  absl::Status status = Grow(bytes);
  if (status.ok()) reserved_ += bytes;
  return status;
}

absl::Status Admission::Ticket::Use(size_t bytes) {
  const size_t known = std::min(bytes, reserved_);
  reserved_ -= known;
  return known == bytes ? absl::OkStatus() : Grow(bytes - known);
}

void Admission::Ticket::Hold(size_t bytes) {
  if (admission_ == nullptr) return;
  admission_->Hold(static_cast<int64_t>(bytes));
  bytes_ += static_cast<int64_t>(bytes);
}

void Admission::Hold(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  bytes_ += bytes;
}

absl::Status Admission::Add(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (requests_ > 1 && bytes_ + bytes > limits_.max_bytes) {
    return Full(GatewayMetrics::kShedBytes, bytes_, limits_.max_bytes);
  }
  bytes_ += bytes;
  return absl::OkStatus();
}

int64_t Admission::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

int64_t Admission::in_flight() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

void Admission::Leave(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  --requests_;
  bytes_ -= bytes;
}

}  // namespace qwenserve
