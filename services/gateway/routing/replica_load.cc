#include "services/gateway/routing/replica_load.h"

#include <algorithm>
#include <utility>

#include "services/common/proto_time.h"

namespace qwenserve {
namespace {

// Others' sequences have on average produced half of what they will.
constexpr uint64_t kForeignAnswer = PlaceCost{1, 0, ~0u}.ExpectedAnswer() / 2;

}  // namespace

void ReplicaLoad::Reserve(const PlaceCost& cost) {
  places_ += cost.sequences;
  prompt_tokens_ += uint64_t{cost.sequences} * cost.prompt_tokens;
  expected_tokens_ += uint64_t{cost.sequences} * cost.ExpectedAnswer();
}

void ReplicaLoad::OnTokens(uint32_t tokens, Sequence* sequence) {
  if (tokens == 0) return;
  prompt_tokens_ -= std::exchange(sequence->prompt_tokens, 0);
  const uint32_t expected = std::min(sequence->expected_tokens, tokens);
  sequence->expected_tokens -= expected;
  expected_tokens_ -= expected;
}

void ReplicaLoad::Remove(const Sequence& sequence) {
  --places_;
  prompt_tokens_ -= sequence.prompt_tokens;
  expected_tokens_ -= sequence.expected_tokens;
}

void ReplicaLoad::OnHeartbeat(const v1::EngineStats& stats, uint32_t submitted) {
  const uint32_t all = stats.running() + stats.waiting();
  foreign_sequences_ = all > submitted ? all - submitted : 0;
  // Own prompts under way are counted in full here and in part there, so this errs on the low side.
  foreign_prompt_tokens_ = foreign_sequences_ > 0 && stats.queued_tokens() > prompt_tokens_
                               ? stats.queued_tokens() - prompt_tokens_
                               : 0;
  stalled_ = stats.has_step_budget() &&
             FromProtoDuration(stats.step_age()) > FromProtoDuration(stats.step_budget());
}

ReplicaView ReplicaLoad::View(const PlaceCost& cost, const v1::ServerHello& hello) const {
  const v1::GeneratorLimits& limits = hello.limits();
  ReplicaView view;
  view.instance_id = hello.instance_id();
  view.outstanding_tokens = prompt_tokens_ + expected_tokens_ + foreign_prompt_tokens_ +
                            foreign_sequences_ * kForeignAnswer;
  const uint64_t places = uint64_t{places_} + cost.sequences;
  const uint64_t prompts = prompt_tokens_ + uint64_t{cost.sequences} * cost.prompt_tokens;
  // A request that is larger than a whole replica is for the replica to refuse.
  const bool fits =
      places_ == 0 || (places <= limits.max_session_sequences() &&
                       (places <= limits.max_running() || prompts <= limits.max_batch_tokens()));
  view.has_room = fits && !stalled_;
  return view;
}

}  // namespace qwenserve
