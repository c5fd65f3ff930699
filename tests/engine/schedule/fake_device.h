#ifndef QWENSERVE_TESTS_ENGINE_SCHEDULE_FAKE_DEVICE_H_
#define QWENSERVE_TESTS_ENGINE_SCHEDULE_FAKE_DEVICE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "engine/schedule/step_plan.h"

namespace qwenserve {

inline constexpr int32_t kFakeVocab = 1000;

// Which rope table a prompt of so many tokens has, in the fake model.
int64_t FakeRopeVariant(int64_t prompt_tokens);

// The fake model: the next token is a hash of all tokens before it, the rope table and the seed, so
// it is right only when the cache held exactly the right contents at all positions.
int32_t FakeNextToken(absl::Span<const int32_t> tokens, int64_t prompt_tokens, uint64_t seed);

// A device whose KV memory remembers, for every position, the id and a hash of everything that its
// keys and values would depend on. Before a row is computed, all positions before it must hold what
// they would hold had the sequence been alone; a block that somebody else uses must not be written.
// Fails the test otherwise. Steps are run when they are launched, as a device does that works
// through a queue: what a step draws is there for the next one, whenever the host asks for it.
class FakeDevice {
 public:
  // `reads_last_id`: SchedulerOptions.
  explicit FakeDevice(int64_t num_blocks, bool reads_last_id = false);

  // The ids that the step scores and draws. `owner_of_seed` tells who may share blocks with whom:
  // the blocks of sequences with different owners must be different. `breaks`, asked for each row:
  // whether it has no finite logit.
  std::vector<SampledToken> Run(
      const StepPlan& plan, const std::function<int(uint64_t seed)>& owner_of_seed,
      const std::function<bool()>& breaks = [] { return false; });

  int64_t rows() const { return rows_; }  // computed since the start

 private:
  struct Slot {
    int32_t id = -1;
    uint64_t state = 0;
  };

  Slot& At(const PlanSequence& part, int64_t position);
  // What stands before the part's first row; checks all of it.
  uint64_t CheckedState(const PlanSequence& part);
  void CheckWrites(const StepPlan& plan) const;
  void CheckOwner(const PlanSequence& part, int owner);
  // The rows' inputs.
  std::vector<int32_t> InputsOf(const PlanSequence& part) const;
  SampledToken DrawFor(const PlanSequence& part, int64_t position, uint64_t state,
                       absl::Span<const int32_t> inputs) const;

  const bool reads_last_id_;
  std::vector<Slot> memory_;
  std::vector<int> owners_;     // by block, -1 = not known
  std::vector<int32_t> drawn_;  // by the step before
  int64_t rows_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_SCHEDULE_FAKE_DEVICE_H_
