#include "tests/engine/runtime/engine_harness.h"

#include <random>
#include <utility>

#include "engine/runtime/engine_impl.h"
#include "gtest/gtest.h"

namespace qwenserve {

EngineHarness::EngineHarness(const EngineOptions& options) {
  auto engine = Engine::Create(
      options, [this](const StepEvents& events) { OnStep(events); }, nullptr);
  status_ = engine.status();
  if (engine.ok()) engine_ = *std::move(engine);
}

void EngineHarness::OnStep(const StepEvents& events) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const SequenceEvent& event : events.sequences) {
    Answer& answer = answers_[event.sequence];
    EXPECT_EQ(answer.finish, FinishReason::kNone) << "an event after the end";
    if (!event.ids.empty()) {
      if (answer.first_index < 0) answer.first_index = event.first_token_index;
      EXPECT_EQ(event.first_token_index,
                answer.first_index + static_cast<int64_t>(answer.ids.size()));
    }
    answer.ids.insert(answer.ids.end(), event.ids.begin(), event.ids.end());
    for (const SampledToken& token : event.logprobs) answer.logprobs.push_back(token.logprob);
    answer.cached_prompt_tokens = event.cached_prompt_tokens;
    answer.tokens.insert(answer.tokens.end(), event.logprobs.begin(), event.logprobs.end());
    if (!event.prompt_logprobs.empty()) {
      EXPECT_EQ(event.first_prompt_index, 1 + static_cast<int64_t>(answer.prompt_logprobs.size()));
    }
    answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                  event.prompt_logprobs.end());
    answer.finish = event.finish;
    answer.stop_token_id = event.stop_token_id;
    answer.error = event.error;
    answer.finish_step = events.step;
  }
  changed_.notify_all();
}

uint64_t EngineHarness::Submit(SequenceRequest request) {
  auto sequence = engine_->Submit(std::move(request));
  EXPECT_TRUE(sequence.ok()) << sequence.status();
  return sequence.value_or(0);
}

Answer EngineHarness::Wait(uint64_t sequence) { return WaitForIds(sequence, SIZE_MAX); }

Answer EngineHarness::WaitForIds(uint64_t sequence, size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] {
    const Answer& answer = answers_[sequence];
    return answer.finish != FinishReason::kNone || answer.ids.size() >= count;
  });
  return answers_[sequence];
}

std::vector<std::vector<int32_t>> EngineHarness::GenerateAll(
    const std::vector<SequenceRequest>& requests) {
  std::vector<std::vector<int32_t>> ids;
  for (Answer& answer : AnswerAll(requests)) ids.push_back(std::move(answer.ids));
  return ids;
}

std::vector<Answer> EngineHarness::AnswerAll(const std::vector<SequenceRequest>& requests) {
  std::vector<uint64_t> sequences;
  for (const SequenceRequest& request : requests) sequences.push_back(Submit(request));
  std::vector<Answer> answers;
  for (uint64_t sequence : sequences) answers.push_back(Wait(sequence));
  return answers;
}

std::vector<pid_t> EngineHarness::follower_pids() {
  return static_cast<EngineImpl&>(*engine_).process_ids();
}

EngineOptions TinyOptions(const std::string& model_dir) {
  EngineOptions options;
  options.model_dir = model_dir;
  options.device = "cpu";
  options.num_threads = 2;
  options.kv_cache_bytes = 1 << 20;
  options.max_running = 16;
  options.rank_binary = "/proc/self/exe";
  return options;
}

SequenceRequest GreedyRequest(std::vector<int32_t> prompt, int64_t max_tokens) {
  SequenceRequest request;
  request.prompt_ids = std::move(prompt);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  request.credit = 1 << 20;
  return request;
}

SequenceRequest SampledRequest(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed) {
  SequenceRequest request = GreedyRequest(std::move(prompt), max_tokens);
  request.sampling.temperature = 0.9f;
  request.sampling.top_k = 50;
  request.sampling.top_p = 0.95f;
  request.sampling.min_p = 0.001f;
  request.sampling.repetition_penalty = 1.1f;
  request.sampling.presence_penalty = 0.3f;
  request.sampling.frequency_penalty = 0.2f;
  request.sampling.seed = seed;
  return request;
}

std::vector<SequenceRequest> MixedRequests(int count, int vocab_size) {
  std::mt19937 random(11);
  std::vector<SequenceRequest> requests;
  for (int i = 0; i < count; ++i) {
    std::vector<int32_t> prompt(1 + random() % 70);
    for (int32_t& id : prompt) id = static_cast<int32_t>(random() % vocab_size);
    requests.push_back(i % 2 == 0 ? GreedyRequest(prompt, 30)
                                  : SampledRequest(prompt, 30, 100 + i));
  }
  return requests;
}

}  // namespace qwenserve
