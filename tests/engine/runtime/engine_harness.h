#ifndef QWENSERVE_TESTS_ENGINE_RUNTIME_ENGINE_HARNESS_H_
#define QWENSERVE_TESTS_ENGINE_RUNTIME_ENGINE_HARNESS_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/runtime/engine.h"

namespace qwenserve {

// What a sequence has sent so far.
struct Answer {
  std::vector<int32_t> ids;
  std::vector<SampledToken> tokens;           // one per id, with alternatives, when asked for
  std::vector<SampledToken> prompt_logprobs;  // from the second prompt token on
  int32_t stop_token_id = -1;
  int64_t first_index = -1;  // of the first event with ids
  FinishReason finish = FinishReason::kNone;
  absl::Status error;
  uint64_t finish_step = 0;
  int64_t cached_prompt_tokens = 0;
  std::vector<float> logprobs;  // of ids, when asked for
};

// An engine and all its answers. Fails the test when events break their order.
class EngineHarness {
 public:
  explicit EngineHarness(const EngineOptions& options);

  absl::Status status() const { return status_; }
  Engine& engine() { return *engine_; }

  uint64_t Submit(SequenceRequest request);
  // Waits for the end.
  Answer Wait(uint64_t sequence);
  // Waits until it has so many ids or has ended.
  Answer WaitForIds(uint64_t sequence, size_t count);
  Answer Generate(SequenceRequest request) { return Wait(Submit(std::move(request))); }
  // All at once; the ids in the order of the requests.
  std::vector<std::vector<int32_t>> GenerateAll(const std::vector<SequenceRequest>& requests);
  // Likewise, with everything that was sent.
  std::vector<Answer> AnswerAll(const std::vector<SequenceRequest>& requests);

  std::vector<pid_t> follower_pids();

 private:
  void OnStep(const StepEvents& events);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Answer> answers_;
  absl::Status status_;
  std::unique_ptr<Engine> engine_;  // last: it calls back until it is gone
};

// Options for a tiny model: two threads, a KV cache of 1 MiB.
EngineOptions TinyOptions(const std::string& model_dir);

// Greedy, never ended by eos.
SequenceRequest GreedyRequest(std::vector<int32_t> prompt, int64_t max_tokens);
// With every sampling parameter at work.
SequenceRequest SampledRequest(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed);

// Requests with prompts of many lengths, greedy and sampled in turn.
std::vector<SequenceRequest> MixedRequests(int count, int vocab_size);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_RUNTIME_ENGINE_HARNESS_H_
