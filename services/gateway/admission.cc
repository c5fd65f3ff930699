#include "services/gateway/admission.h"

#include "absl/strings/str_cat.h"
#include "services/common/error_details.h"

namespace qwenserve {
namespace {

absl::Status Full(int64_t inside, int64_t limit, absl::string_view what) {
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat("the gateway is full: ", inside, " of ", limit, " ", what, " in flight"));
  return WithRetryAfter(WithReason(status, kReasonQueueFull), absl::Seconds(1));
}

}  // namespace

absl::StatusOr<Admission::Ticket> Admission::Enter(size_t bytes) {
  const int64_t size = static_cast<int64_t>(bytes);
  absl::MutexLock lock(&mutex_);
  if (requests_ >= limits_.max_requests) return Full(requests_, limits_.max_requests, "requests");
  // A single request is never too large for an empty gateway: its own limit is elsewhere.
  if (requests_ > 0 && bytes_ + size > limits_.max_bytes) {
    return Full(bytes_, limits_.max_bytes, "bytes");
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

absl::Status Admission::Add(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (requests_ > 1 && bytes_ + bytes > limits_.max_bytes) {
    return Full(bytes_, limits_.max_bytes, "bytes");
  }
  bytes_ += bytes;
  return absl::OkStatus();
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
