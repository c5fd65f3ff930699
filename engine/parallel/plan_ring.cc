#include "engine/parallel/plan_ring.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxMessage = size_t{1} << 30;

}  // namespace

PlanSender::PlanSender(std::shared_ptr<RankGroup> group, std::vector<int> readers,
                       absl::Duration timeout)
    : group_(std::move(group)), readers_(std::move(readers)), timeout_(timeout) {}

PlanSender::PlanSender(std::shared_ptr<RankGroup> group, absl::Duration timeout)
    : group_(std::move(group)), timeout_(timeout) {
  for (int r = 1; r < group_->size(); ++r) readers_.push_back(r);
}

absl::Status PlanSender::Send(absl::string_view message) {
  QS_CHECK(message.size() <= kMaxMessage);
  const uint32_t bytes = static_cast<uint32_t>(message.size());
  char length[sizeof(bytes)];
  std::memcpy(length, &bytes, sizeof(bytes));
  QS_RETURN_IF_ERROR(Write(length, sizeof(length)));
  return Write(message.data(), message.size());
}

absl::Status PlanSender::Write(const char* data, size_t bytes) {
  const uint32_t ring = static_cast<uint32_t>(group_->ring_bytes());
  while (bytes > 0) {
    const uint32_t offset = written_ % ring;
    const uint32_t n =
        static_cast<uint32_t>(std::min({bytes, size_t{ring - offset}, size_t{ring / 2}}));
    for (int r : readers_) {
      QS_RETURN_IF_ERROR(group_->Wait(group_->ring_read(r), written_ + n - ring, timeout_, r,
                                      "room in the ring of plans"));
    }
    std::memcpy(group_->ring() + offset, data, n);
    written_ += n;
    Advance(group_->ring_written(), written_);
    data += n;
    bytes -= n;
  }
  return group_->Health();
}

PlanReceiver::PlanReceiver(std::shared_ptr<RankGroup> group, int rank)
    : group_(std::move(group)), rank_(rank) {}

bool PlanReceiver::Arrives(absl::Duration timeout) {
  return group_->TryWait(group_->ring_written(), read_ + 1, timeout) != WaitResult::kTimedOut;
}

absl::StatusOr<std::string> PlanReceiver::Receive() {
  uint32_t bytes = 0;
  char length[sizeof(bytes)];
  QS_RETURN_IF_ERROR(Read(length, sizeof(length)));
  std::memcpy(&bytes, length, sizeof(bytes));
  QS_CHECK(bytes <= kMaxMessage);
  std::string message(bytes, '\0');
  QS_RETURN_IF_ERROR(Read(message.data(), message.size()));
  return message;
}

absl::Status PlanReceiver::Read(char* data, size_t bytes) {
  const uint32_t ring = static_cast<uint32_t>(group_->ring_bytes());
  while (bytes > 0) {
    const uint32_t offset = read_ % ring;
    const uint32_t n =
        static_cast<uint32_t>(std::min({bytes, size_t{ring - offset}, size_t{ring / 2}}));
    QS_RETURN_IF_ERROR(group_->Wait(group_->ring_written(), read_ + n, absl::InfiniteDuration(), 0,
                                    "the next plan"));
    std::memcpy(data, group_->ring() + offset, n);
    read_ += n;
    Advance(group_->ring_read(rank_), read_);
    data += n;
    bytes -= n;
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
