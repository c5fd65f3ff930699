#ifndef QWENSERVE_ENGINE_SCHEDULE_STEP_PLAN_H_
#define QWENSERVE_ENGINE_SCHEDULE_STEP_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/sample_row.h"

namespace qwenserve {

// One sequence's part in a step.
struct PlanSequence {
  int64_t first_position = 0;   // absolute position of ids[0]
  std::vector<int32_t> ids;     // inputs; the rows of this sequence
  int32_t sampled_by_row = -1;  // >= 0: ids is one placeholder, and the input is the id that was
                                // drawn as that logit row of the previous step
  int64_t prompt_tokens = 0;    // the prompt's boundary: decides NTK's alpha
  std::vector<int32_t> blocks;  // KV blocks of positions 0 .. first_position + ids.size() - 1
  bool wants_logits = false;    // the last row's next token is to be drawn
  // With wants_logits. What it points to is there on rank 0 only, until Collect; whole_row tells
  // the others that there is something.
  SampleRow sample;
  bool whole_row = false;
  // Rows whose next token is known and whose log-probability of it is wanted, with the score_top
  // highest ones. None of them is the one that wants_logits speaks of.
  int32_t first_scored = 0;
  int32_t num_scored = 0;
  int32_t score_top = 0;
  int32_t next_id = -1;   // the token after the last row, where that is scored
  uint64_t sequence = 0;  // whose part it is, as Scheduler::Add named it; on rank 0 only
};

// What all ranks do in one step: the only thing that ranks other than 0 are told. Made by the
// scheduler on rank 0.
struct StepPlan {
  uint64_t step = 0;
  std::vector<PlanSequence> sequences;
  bool shutdown = false;  // no step: the followers return

  int64_t rows() const {
    int64_t rows = 0;
    for (const PlanSequence& part : sequences) rows += static_cast<int64_t>(part.ids.size());
    return rows;
  }
};

// Flat bytes for ranks in other processes (same binary, same machine or same byte order).
std::string SerializeStepPlan(const StepPlan& plan);
absl::StatusOr<StepPlan> ParseStepPlan(absl::string_view bytes);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_STEP_PLAN_H_
