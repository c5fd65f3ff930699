#include "tools/bench/step_log.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {

void StepLog::OnStep(const StepEvents& events) {
  std::lock_guard<std::mutex> lock(mutex_);
  Step step{Clock::now(), 0, events.duration};
  for (const SequenceEvent& event : events.sequences) {
    step.tokens += static_cast<int64_t>(event.ids.size());
    if (event.finish != FinishReason::kNone) ++finished_;
    if (event.finish == FinishReason::kError) error_.Update(event.error);
  }
  steps_.push_back(step);
  changed_.notify_all();
}

std::vector<StepLog::Step> StepLog::Take(int64_t count, absl::Status* error) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return finished_ >= count; });
  finished_ = 0;
  error->Update(error_);
  return std::exchange(steps_, {});
}

SequenceRequest BenchRequest(int64_t vocab_size, int64_t prompt, int64_t tokens, int64_t seed) {
  SequenceRequest request;
  for (int64_t i = 0; i < prompt; ++i) {
    request.prompt_ids.push_back(
        static_cast<int32_t>((i * 7919 + seed * 104729 + 11) % vocab_size));
  }
  request.cache_salt = absl::StrCat(seed);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = tokens;
  request.sampling.ignore_eos = true;
  request.credit = tokens;
  return request;
}

}  // namespace qwenserve
