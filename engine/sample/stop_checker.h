#ifndef QWENSERVE_ENGINE_SAMPLE_STOP_CHECKER_H_
#define QWENSERVE_ENGINE_SAMPLE_STOP_CHECKER_H_

#include <cstdint>
#include <vector>

#include "engine/sample/sampling_params.h"

namespace qwenserve {

enum class StopVerdict {
  kContinue,
  kStopToken,  // the id ends the answer and is not part of it
  kLastToken,  // the id belongs to the answer, which has now max_tokens
};

// Decides when an answer ends, by ids alone: the engine knows no text. Immutable.
class StopChecker {
 public:
  explicit StopChecker(std::vector<int32_t> eos_ids);

  // For `id`, drawn when the answer had `answer_tokens` tokens. ignore_eos takes effect for the
  // checkpoint's eos ids, not for stop_token_ids, which the request itself names.
  StopVerdict Check(const SamplingParams& params, int32_t id, int64_t answer_tokens) const;

  // The ids for which that is kStopToken.
  std::vector<int32_t> EndIds(const SamplingParams& params) const;

 private:
  std::vector<int32_t> eos_ids_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SAMPLE_STOP_CHECKER_H_
