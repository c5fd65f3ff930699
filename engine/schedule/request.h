#ifndef QWENSERVE_ENGINE_SCHEDULE_REQUEST_H_
#define QWENSERVE_ENGINE_SCHEDULE_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/sample/sampling_params.h"

namespace qwenserve {

inline constexpr int32_t kMaxPriority = 1000;

// A payload of a RESOURCE_EXHAUSTED refusal that says: not for want of a place, but since the
// request could not start before its deadline.
inline constexpr char kDeadlineUnreachablePayload[] = "qwenserve.engine/deadline_unreachable";

// One sequence to generate. Ids only: the engine knows no text.
struct SequenceRequest {
  std::string request_id;            // a label for logs, chosen by the gateway
  int32_t sample_index = 0;          // which of n answers
  std::vector<int32_t> prompt_ids;   // never empty
  std::vector<int32_t> resumed_ids;  // already generated elsewhere; counts as output
  // Another replica had accepted it, and was lost: it goes before newcomers as resumed_ids do, and
  // no prediction refuses it.
  bool accepted_before = false;
  SamplingParams sampling;
  absl::Time deadline = absl::InfiniteFuture();
  // Keys and values are only shared among sequences of equal salt.
  std::string cache_salt;
  int32_t priority = 0;  // higher first, -kMaxPriority to kMaxPriority
  int64_t credit = 0;    // tokens that may be sent before more credit is given
};

// kNumeric: the model gave no usable logits for this sequence; `error` says where.
enum class FinishReason { kNone, kStop, kLength, kCancelled, kDeadline, kError, kNumeric };

// What one step did for one sequence. Exactly one event of a sequence has a finish.
struct SequenceEvent {
  uint64_t sequence = 0;          // as returned by Engine::Submit
  int64_t first_token_index = 0;  // absolute index in the answer of ids[0], resumed ids counted
  std::vector<int32_t> ids;       // new ids; the eos id that ended the answer is not among them
  std::vector<SampledToken> logprobs;         // one per id, when asked for
  int64_t first_prompt_index = 0;             // index in the prompt of prompt_logprobs[0], from 1
  std::vector<SampledToken> prompt_logprobs;  // when asked for, each prompt token once
  FinishReason finish = FinishReason::kNone;
  absl::Status error;          // with kError and kNumeric
  int32_t stop_token_id = -1;  // with kStop: the eos or stop id that ended the answer
  // From Submit to the first step that worked on it; with a finish also where there was none.
  absl::Duration queue_time;
  int64_t cached_prompt_tokens = 0;  // that were not computed when the sequence first ran
};

struct StepEvents {
  uint64_t step = 0;
  // From the step's launch, or the end of the one before when that was later, to its tokens; 0 for
  // events between steps.
  absl::Duration duration;
  int64_t rows = 0;   // tokens that it computed
  int64_t batch = 0;  // sequences that it worked on
  std::vector<SequenceEvent> sequences;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_REQUEST_H_
