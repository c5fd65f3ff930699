#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_WAIT_PREDICTOR_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_WAIT_PREDICTOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "services/gateway/routing/priority_work.h"

namespace qwenserve {

// What a replica has done since the last report, as its events tell.
struct ReplicaWork {
  // Of sequences that got their first token: their prompts, cached ones included, and the time
  // from submit to that token.
  uint64_t started_sequences = 0;
  uint64_t prompt_tokens = 0;
  absl::Duration start_delays;
  // All tokens of answers; the times between those of one sequence, and how many tokens they are
  // of.
  uint64_t answer_tokens = 0;
  absl::Duration gaps;
  uint64_t gap_tokens = 0;
  // Lengths of the answers that ended.
  std::vector<uint32_t> answers;
};

// Learns from what the replicas of one model do how long a request would wait for them. Nothing is
// assumed of the hardware: while requests wait, the replicas are busy, and then
//   seconds = prompt_cost * prompt tokens + answer_cost * answer tokens
// holds for each replica's time; the costs are fitted by least squares over the recent past and
// scaled so that the mean is right. Answers are only expected to be as long as they are, so waits
// are corrected by how long what was taken has really kept the replicas busy. What replicas do for
// other gateways makes the costs of this one's share higher, as it should. Time is an argument. Not
// thread-safe.
class WaitPredictor {
 public:
  void OnWork(const ReplicaWork& work);
  // A replica has taken a request that was expected to be so much.
  void OnPlaced(const QueueWork& expected);

  // To be called about twice a second. `busy`: requests were waiting all the time since the last
  // call, for `replicas` that took them as soon as they could.
  void Sample(absl::Time now, size_t replicas, bool busy);

  // Until that work is done, or nullopt while nothing is known: replicas were never busy yet.
  std::optional<absl::Duration> Wait(const QueueWork& ahead, size_t replicas) const;

  // From a replica's taking a request to the first token: the prompt's own cost, or what others
  // had to wait lately if that is longer. 0 while unknown.
  absl::Duration Start(uint64_t prompt_tokens) const;
  // The prompt's own cost alone.
  absl::Duration Prefill(uint64_t prompt_tokens) const;
  // Between the first token and the last one.
  absl::Duration Decode(uint64_t answer_tokens) const;

  // How long an answer is: the mean of recent ones, and the length that is exceeded by so few that
  // they have a twentieth of all tokens; both within its limit.
  uint32_t MeanAnswer(uint32_t max_tokens) const;
  uint32_t LongAnswer(uint32_t max_tokens) const;

 private:
  void Fit();
  double Cost(const QueueWork& work) const {
    return prompt_cost_ * static_cast<double>(work.prompt_tokens) +
           answer_cost_ * static_cast<double>(work.answer_tokens);
  }
  double Correction() const;

  absl::Time sampled_ = absl::InfinitePast();
  ReplicaWork done_;

  // Weighted sums over samples of x = prompt tokens and y = answer tokens per second and replica.
  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0, yy_ = 0;
  double prompt_cost_ = 0;  // seconds of a replica per token
  double answer_cost_ = 0;

  // Work taken since the last sample, and the decaying sums of what it was expected to cost and of
  // the time, in seconds of a replica.
  QueueWork placed_;
  double placements_ = 0, expected_seconds_ = 0, busy_seconds_ = 0;

  // Decaying sums.
  double gap_seconds_ = 0, gap_tokens_ = 0;
  double start_seconds_ = 0, starts_ = 0;
  double ended_ = 0, ended_tokens_ = 0;
  // Tokens of ended answers by the answer's length, two classes to a doubling.
  std::array<double, 64> lengths_ = {};
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_WAIT_PREDICTOR_H_
