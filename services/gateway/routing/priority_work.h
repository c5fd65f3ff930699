#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_PRIORITY_WORK_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_PRIORITY_WORK_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace qwenserve {

// Tokens that replicas have to work on for waiting requests.
struct QueueWork {
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;  // an estimate
  int64_t requests = 0;

  QueueWork& operator+=(const QueueWork& other) {
    prompt_tokens += other.prompt_tokens;
    answer_tokens += other.answer_tokens;
    requests += other.requests;
    return *this;
  }
  QueueWork operator-() const { return {-prompt_tokens, -answer_tokens, -requests}; }
};

// The work that waits at each priority, summed from the top: a Fenwick tree over ranks (P. Fenwick,
// A new data structure for cumulative frequency tables, 1994), because a client chooses its
// priority and must not make others' predictions slow by using all of them.
class PriorityWork {
 public:
  // Priorities beyond count as the limit itself, which is the API's.
  static constexpr int32_t kMaxPriority = 1000;

  // Rank 1 is what goes first.
  static size_t Rank(bool resumed, int32_t priority) {
    if (resumed) return 1;
    return static_cast<size_t>(kMaxPriority - std::clamp(priority, -kMaxPriority, kMaxPriority)) +
           2;
  }

  void Add(size_t rank, const QueueWork& work) {
    for (; rank < tree_.size(); rank += rank & -rank) tree_[rank] += work;
  }
  // Of this rank and all before it.
  QueueWork UpTo(size_t rank) const {
    QueueWork sum;
    for (; rank > 0; rank -= rank & -rank) sum += tree_[rank];
    return sum;
  }

 private:
  std::array<QueueWork, 2 * kMaxPriority + 3> tree_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_PRIORITY_WORK_H_
