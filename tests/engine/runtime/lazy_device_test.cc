// An engine over a device that works through a queue, as late as it may: steps ahead, steps filled
// up and repeated, ids that stay on the device. The tokens are those of the plain CPU.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <tuple>

#include "engine/runtime/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/runtime/lazy_backend.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

class LazyDevice : public testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  bool runs_ahead() const { return std::get<0>(GetParam()); }
  bool reads_last_id() const { return std::get<1>(GetParam()); }

  void SetUp() override {
    plain_ = TinyOptions(WriteTinyCheckpoint("lazy_device", TinyModel()));
    lazy_ = plain_;
    lazy_.run_ahead = runs_ahead();
    lazy_.wrap_backend = [this](std::unique_ptr<Backend> device) -> std::unique_ptr<Backend> {
      return std::make_unique<LazyBackend>(std::move(device), reads_last_id(), &counts_);
    };
  }

  EngineOptions plain_, lazy_;
  LazyCounts counts_;
};

INSTANTIATE_TEST_SUITE_P(StepByStepAndAhead, LazyDevice,
                         testing::Combine(testing::Bool(), testing::Bool()));

// Greedy and penalised in turn, some with scores of their prompts.
std::vector<SequenceRequest> Requests() {
  std::vector<SequenceRequest> requests = MixedRequests(13, TinyModel().vocab_size);
  for (size_t i = 0; i < requests.size(); ++i) {
    SequenceRequest& request = requests[i];
    request.sampling.max_tokens = 20 + static_cast<int64_t>(i);
    if (i % 3 == 0) request.sampling.num_logprobs = 2;
    if (i % 4 == 0) request.sampling.num_prompt_logprobs = 1;
    if (i % 4 == 1) request.sampling.ignore_eos = false;
    if (i % 5 == 0) request.sampling.min_tokens = 5;
  }
  return requests;
}

TEST_P(LazyDevice, GivesTheTokensOfThePlainOne) {
  EngineHarness plain(plain_), lazy(lazy_);
  ASSERT_TRUE(plain.status().ok()) << plain.status();
  ASSERT_TRUE(lazy.status().ok()) << lazy.status();
  const std::vector<Answer> expected = plain.AnswerAll(Requests());
  const std::vector<Answer> answers = lazy.AnswerAll(Requests());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(answers[i].ids, expected[i].ids) << i;
    EXPECT_EQ(answers[i].logprobs, expected[i].logprobs) << i;
    EXPECT_EQ(answers[i].finish, expected[i].finish) << i;
    ASSERT_EQ(answers[i].prompt_logprobs.size(), expected[i].prompt_logprobs.size());
    for (size_t p = 0; p < expected[i].prompt_logprobs.size(); ++p) {
      EXPECT_EQ(answers[i].prompt_logprobs[p].logprob, expected[i].prompt_logprobs[p].logprob);
    }
  }
  EXPECT_GT(counts_.filling, 0);
  EXPECT_GT(counts_.repeats, 2 * counts_.records);
}

TEST_P(LazyDevice, AlwaysHasTheNextStepWhereHostsRunAhead) {
  EngineHarness lazy(lazy_);
  ASSERT_TRUE(lazy.status().ok()) << lazy.status();
  std::vector<SequenceRequest> requests;
  for (int32_t i = 0; i < 5; ++i) requests.push_back(GreedyRequest({i, 7, 9}, 100));
  requests[3].sampling.repetition_penalty = 1.2f;
  const int64_t copies = counts_.copies_to_device - counts_.samples;
  const int64_t waits = counts_.waits_for_all;
  lazy.GenerateAll(requests);
  EXPECT_EQ(counts_.copies_to_device - counts_.samples, copies) << "one copy for each step";
  if (runs_ahead() && reads_last_id()) {
    // A step that has nothing behind it is the last of all sequences that run then.
    EXPECT_LE(counts_.waits_for_all - waits, 5);
    EXPECT_GE(counts_.waits_for_some, 95);
  } else {
    EXPECT_GE(counts_.waits_for_all - waits, 95);
  }
}

// What rank 0 draws reaches the others on the device, and collectives are repeated with the rest.
TEST_P(LazyDevice, RanksMeetInTheirQueues) {
  plain_.tp = lazy_.tp = 2;
  EngineHarness plain(plain_), lazy(lazy_);
  ASSERT_TRUE(plain.status().ok()) << plain.status();
  ASSERT_TRUE(lazy.status().ok()) << lazy.status();
  const auto expected = plain.GenerateAll(Requests());
  EXPECT_EQ(lazy.GenerateAll(Requests()), expected);
  EXPECT_GT(counts_.repeats, 2 * counts_.records);
}

// Two steps share their time under way; no microsecond of it counts twice.
TEST_P(LazyDevice, StepsLastFromTheEndOfTheOneBefore) {
  std::mutex mutex;
  std::condition_variable changed;
  int steps = 0;
  bool ended = false;
  absl::Duration sum;
  auto engine = Engine::Create(
      lazy_,
      [&](const StepEvents& events) {
        std::lock_guard<std::mutex> lock(mutex);
        steps += events.duration > absl::ZeroDuration() ? 1 : 0;
        sum += events.duration;
        for (const SequenceEvent& event : events.sequences) {
          ended |= event.finish != FinishReason::kNone;
        }
        changed.notify_all();
      },
      nullptr);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto began = std::chrono::steady_clock::now();
  ASSERT_TRUE((*engine)->Submit(GreedyRequest({1, 2, 3}, 60)).ok());
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return ended; });
  EXPECT_GE(steps, 60);
  EXPECT_LE(sum, absl::FromChrono(std::chrono::steady_clock::now() - began));
}

TEST_P(LazyDevice, PreemptionAndSharingChangeNoToken) {
  lazy_.max_model_len = 112;
  lazy_.max_batch_tokens = 64;
  EngineHarness plain(plain_);
  ASSERT_TRUE(plain.status().ok()) << plain.status();
  lazy_.kv_cache_bytes = 9 * (plain_.kv_cache_bytes / plain.engine().Stats().total_blocks);
  EngineHarness lazy(lazy_);
  ASSERT_TRUE(lazy.status().ok()) << lazy.status();
  std::vector<SequenceRequest> requests = MixedRequests(10, TinyModel().vocab_size);
  for (size_t i = 0; i < requests.size(); i += 2) {
    std::vector<int32_t>& prompt = requests[i].prompt_ids;
    prompt.resize(std::min<size_t>(prompt.size(), 40));
    prompt.insert(prompt.begin(), 32, 5);
  }
  const auto expected = plain.GenerateAll(requests);
  EXPECT_EQ(lazy.GenerateAll(requests), expected);
  EXPECT_EQ(lazy.GenerateAll(requests), expected);
  EXPECT_GT(lazy.engine().Stats().counters.preemptions, 0);
  EXPECT_GT(lazy.engine().Stats().counters.hit_tokens, 0);
  EXPECT_EQ(lazy.engine().Stats().free_blocks, lazy.engine().Stats().total_blocks);
}

}  // namespace
}  // namespace qwenserve
