#ifndef QWENSERVE_TESTS_SERVICES_GENERATOR_SIM_HARNESS_H_
#define QWENSERVE_TESTS_SERVICES_GENERATOR_SIM_HARNESS_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/tokenizer/tokenizer.h"
#include "gtest/gtest.h"
#include "services/generator/sim_replica.h"

namespace qwenserve {

inline std::shared_ptr<const Tokenizer> DemoTokenizer() {
  static const std::shared_ptr<const Tokenizer> tokenizer = [] {
    absl::StatusOr<std::unique_ptr<Tokenizer>> loaded = Tokenizer::Load("models/demo");
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return std::shared_ptr<const Tokenizer>(*std::move(loaded));
  }();
  return tokenizer;
}

// What became of one sequence.
struct SimAnswer {
  std::vector<int32_t> ids;
  std::vector<SampledToken> logprobs, prompt_logprobs;
  SequenceEvent last;  // the event with the finish, once there is one
  absl::Time first_at = absl::InfiniteFuture();
  bool ended() const { return last.finish != FinishReason::kNone; }
};

// A replica in virtual time.
class SimDriver {
 public:
  static constexpr int32_t kVocab = 4096, kEos = 4095;

  static SimReplicaOptions DefaultOptions() {
    SimReplicaOptions options;
    options.scheduler.max_model_len = 2048;
    options.scheduler.num_blocks = 1024;
    options.scheduler.vocab_size = kVocab;
    options.scheduler.eos_ids = {kEos};
    options.scheduler.fingerprint = "sim-test";
    return options;
  }

  explicit SimDriver(SimReplicaOptions options = DefaultOptions())
      : replica(std::move(options), *MakeSimVocabulary(*DemoTokenizer(), kVocab, {kEos}),
                DemoTokenizer()) {}

  static SequenceRequest Request(std::vector<int32_t> prompt, int64_t max_tokens) {
    SequenceRequest request;
    request.prompt_ids = std::move(prompt);
    request.sampling.max_tokens = max_tokens;
    request.sampling.ignore_eos = true;
    request.credit = 1000;
    return request;
  }

  absl::StatusOr<uint64_t> Submit(SequenceRequest request) {
    SimReplica::Prepared prepared = replica.Prepare(request);
    const size_t resumed = request.resumed_ids.size();
    absl::StatusOr<uint64_t> handle = replica.Submit(std::move(request), std::move(prepared), now);
    if (handle.ok()) resumed_[*handle] = resumed;
    return handle;
  }

  // One step, or what can be done without one; false when there was nothing. A step that never
  // ends is left open.
  bool Step() {
    std::vector<SequenceEvent> events;
    const std::optional<absl::Duration> time = replica.BeginStep(now, &events);
    const bool any_ended = !events.empty();
    Take(events);
    if (!time.has_value()) return any_ended;
    last_step = *time;
    if (*time == absl::InfiniteDuration()) return false;
    now += *time;
    events.clear();
    replica.EndStep(now, &events);
    Take(events);
    return true;
  }

  void RunUntilIdle() {
    while (Step()) {
    }
  }

  // Submits it alone and runs it to its end.
  SimAnswer Answer(SequenceRequest request) {
    const absl::StatusOr<uint64_t> handle = Submit(std::move(request));
    EXPECT_TRUE(handle.ok()) << handle.status();
    if (!handle.ok()) return {};
    RunUntilIdle();
    return answers[*handle];
  }

  SimReplica replica;
  absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  absl::Duration last_step;
  std::map<uint64_t, SimAnswer> answers;

 private:
  void Take(const std::vector<SequenceEvent>& events) {
    for (const SequenceEvent& event : events) {
      SimAnswer& answer = answers[event.sequence];
      EXPECT_FALSE(answer.ended());
      const size_t known = resumed_[event.sequence] + answer.ids.size();
      EXPECT_EQ(event.first_token_index, static_cast<int64_t>(known));
      if (!event.ids.empty()) answer.first_at = std::min(answer.first_at, now);
      answer.ids.insert(answer.ids.end(), event.ids.begin(), event.ids.end());
      answer.logprobs.insert(answer.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
      answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                    event.prompt_logprobs.end());
      if (event.finish != FinishReason::kNone) answer.last = event;
    }
  }

  std::map<uint64_t, size_t> resumed_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GENERATOR_SIM_HARNESS_H_
