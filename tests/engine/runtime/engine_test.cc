// One replica over tiny random checkpoints: the same request gives the same tokens, whatever else
// happens; and what a client asks for in the middle takes effect.
#include "engine/runtime/engine.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <vector>

#include "engine/base/monotonic_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"
#include "tests/kernels/reference_backend.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

using AllIds = std::vector<std::vector<int32_t>>;

// What every other way of running must reproduce: each request alone, one after the other.
AllIds OneByOne(const EngineOptions& options, const std::vector<SequenceRequest>& requests) {
  EngineHarness harness(options);
  EXPECT_TRUE(harness.status().ok()) << harness.status();
  AllIds all;
  for (const SequenceRequest& request : requests) all.push_back(harness.Generate(request).ids);
  return all;
}

class EveryFamily : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    TinyModel model;
    model.architecture = GetParam();
    if (model.architecture == "QWenLMHeadModel") {
      model.num_kv_heads = model.num_query_heads;
      // A training length of 48: prompts lie on both sides of it, and short ones grow past it.
      model.max_positions = 192;
    }
    options_ = TinyOptions(WriteTinyCheckpoint("engine_" + model.architecture, model));
    requests_ = MixedRequests(10, model.vocab_size);
    expected_ = OneByOne(options_, requests_);
    for (const auto& ids : expected_) ASSERT_THAT(ids, SizeIs(30));
  }

  EngineOptions options_;
  std::vector<SequenceRequest> requests_;
  AllIds expected_;
};

TEST_P(EveryFamily, PromptsAndSeedsMatter) {
  AllIds distinct = expected_;
  std::sort(distinct.begin(), distinct.end());
  EXPECT_EQ(std::unique(distinct.begin(), distinct.end()), distinct.end());
  SequenceRequest other = requests_[1];
  other.sampling.seed += 1;
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  EXPECT_NE(harness.Generate(other).ids, expected_[1]);
}

TEST_P(EveryFamily, ABatchOfManyGivesTheTokensOfOne) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  EXPECT_EQ(harness.GenerateAll(requests_), expected_);
}

TEST_P(EveryFamily, AnyBudgetAndThreadCountGivesTheSameTokens) {
  for (int64_t budget : {1, 3, 16, 50}) {
    SCOPED_TRACE(budget);
    EngineOptions options = options_;
    options.max_batch_tokens = budget;
    options.num_threads = budget % 2 == 0 ? 3 : 1;
    EngineHarness harness(options);
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    EXPECT_EQ(harness.GenerateAll(requests_), expected_);
  }
}

TEST_P(EveryFamily, PreemptionChangesNoToken) {
  EngineOptions options = options_;
  options.max_model_len = 112;
  options.max_batch_tokens = 64;
  EngineHarness probe(options);
  ASSERT_TRUE(probe.status().ok()) << probe.status();
  const int64_t block_bytes = options.kv_cache_bytes / probe.engine().Stats().total_blocks;
  options.kv_cache_bytes = 9 * block_bytes;
  EngineHarness harness(options);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  EXPECT_EQ(harness.GenerateAll(requests_), expected_);
  EXPECT_GT(harness.engine().Stats().counters.preemptions, 0);
  EXPECT_EQ(harness.engine().Stats().free_blocks, harness.engine().Stats().total_blocks);
}

TEST_P(EveryFamily, AResumedAnswerGoesOnAsItWould) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  for (size_t r : {size_t{0}, size_t{1}}) {
    for (size_t done = 0; done <= expected_[r].size(); ++done) {
      SequenceRequest request = requests_[r];
      request.resumed_ids.assign(expected_[r].begin(), expected_[r].begin() + done);
      const Answer answer = harness.Generate(request);
      EXPECT_EQ(answer.finish, FinishReason::kLength);
      EXPECT_EQ(answer.ids, std::vector<int32_t>(expected_[r].begin() + done, expected_[r].end()))
          << "request " << r << " resumed after " << done;
      if (done < expected_[r].size()) {
        EXPECT_EQ(answer.first_index, static_cast<int64_t>(done));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EveryFamily,
                         testing::Values("QWenLMHeadModel", "Qwen2ForCausalLM",
                                         "Qwen3ForCausalLM"));

// The parameter: whether steps are planned one ahead.
class EngineTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    options_ = TinyOptions(WriteTinyCheckpoint("engine_one", TinyModel()));
    options_.run_ahead = GetParam();
  }
  EngineOptions options_;
};
INSTANTIATE_TEST_SUITE_P(StepByStepAndAhead, EngineTest, testing::Bool());

TEST_P(EngineTest, CancelFreesItsBlocksWithinTwoSteps) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  // Neither can end before it is cancelled, however slow this thread is.
  SequenceRequest request = GreedyRequest({1, 2, 3}, 400);
  request.credit = 50;
  const uint64_t other = harness.Submit(request);
  const uint64_t sequence = harness.Submit(request);
  harness.WaitForIds(sequence, 5);
  harness.engine().Cancel(sequence);
  const uint64_t step = harness.engine().Stats().step;
  const Answer answer = harness.Wait(sequence);
  EXPECT_EQ(answer.finish, FinishReason::kCancelled);
  EXPECT_LE(answer.finish_step, step + 2);
  harness.engine().Cancel(other);
  harness.Wait(other);
  const EngineStats stats = harness.engine().Stats();
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
  EXPECT_EQ(stats.running + stats.waiting, 0);
  // A step that was launched before the end was known may still be under way.
  while (harness.engine().Stats().step_age != absl::ZeroDuration()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
}

TEST_P(EngineTest, CreditIsKeptToTheToken) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const AllIds free = harness.GenerateAll({GreedyRequest({1, 2, 3}, 20)});
  SequenceRequest request = GreedyRequest({1, 2, 3}, 20);
  request.credit = 3;
  const uint64_t sequence = harness.Submit(request);
  harness.WaitForIds(sequence, 3);
  // Another one runs to its end meanwhile: the paused one has had every chance to go on.
  EXPECT_EQ(harness.Generate(GreedyRequest({1, 2, 3}, 20)).ids, free[0]);
  EXPECT_THAT(harness.WaitForIds(sequence, 3).ids, SizeIs(3));
  EXPECT_EQ(harness.engine().Stats().waiting, 1);
  harness.engine().AddCredit(sequence, 17);
  EXPECT_EQ(harness.Wait(sequence).ids, free[0]);
}

TEST_P(EngineTest, TheDeadlineEndsAPausedSequenceOfAnIdleEngine) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  SequenceRequest request = GreedyRequest({1, 2, 3}, 20);
  request.credit = 2;
  request.deadline = MonotonicNow() + absl::Milliseconds(200);
  const Answer answer = harness.Generate(request);
  EXPECT_EQ(answer.finish, FinishReason::kDeadline);
  EXPECT_LE(answer.ids.size(), 2);
}

TEST_P(EngineTest, EndsAtTheEosId) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const std::vector<int32_t> ids = harness.Generate(GreedyRequest({1, 2, 3}, 20)).ids;
  SequenceRequest request = GreedyRequest({1, 2, 3}, 20);
  request.sampling.stop_token_ids = {ids[7]};
  const Answer answer = harness.Generate(request);
  EXPECT_EQ(answer.finish, FinishReason::kStop);
  const auto first = std::find(ids.begin(), ids.end(), ids[7]);
  EXPECT_EQ(answer.ids, std::vector<int32_t>(ids.begin(), first));
}

TEST_P(EngineTest, RefusesBadRequestsAndGoesOn) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  auto status = harness.engine().Submit(GreedyRequest({1, 320}, 4)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("prompt_ids[1] is 320"));
  status = harness.engine().Submit(GreedyRequest({1}, 512)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(harness.Generate(GreedyRequest({1}, 4)).ids, SizeIs(4));
  EXPECT_TRUE(harness.engine().Health().ok());
}

TEST_P(EngineTest, DestructionEndsWhatRuns) {
  std::vector<FinishReason> finishes;
  {
    auto engine = Engine::Create(
        options_,
        [&](const StepEvents& events) {
          for (const SequenceEvent& event : events.sequences) {
            if (event.finish != FinishReason::kNone) finishes.push_back(event.finish);
          }
        },
        nullptr);
    ASSERT_TRUE(engine.ok()) << engine.status();
    SequenceRequest request = GreedyRequest({1, 2}, 400);
    request.credit = 1;
    ASSERT_TRUE((*engine)->Submit(request).ok());
  }
  EXPECT_EQ(finishes, std::vector<FinishReason>{FinishReason::kError});
}

// The event of the end comes while the engine is being destroyed: its receiver still finds it
// whole.
TEST_P(EngineTest, TheLastCallbackMayCallTheEngine) {
  std::atomic<Engine*> engine{nullptr};
  int ends = 0;
  auto created = Engine::Create(
      options_,
      [&](const StepEvents& events) {
        for (const SequenceEvent& event : events.sequences) {
          if (event.finish == FinishReason::kNone) continue;
          ++ends;
          // Long enough for a destructor that does not wait for this.
          absl::SleepFor(absl::Milliseconds(50));
          const EngineStats stats = engine.load()->Stats();
          EXPECT_EQ(stats.free_blocks, stats.total_blocks);
          EXPECT_THAT(stats.ranks, SizeIs(1));
          EXPECT_FALSE(engine.load()->Health().ok());
          EXPECT_FALSE(engine.load()->Submit(GreedyRequest({1}, 1)).ok());
          engine.load()->Cancel(event.sequence);
          engine.load()->AddCredit(event.sequence, 1);
        }
      },
      nullptr);
  ASSERT_TRUE(created.ok()) << created.status();
  engine = created->get();
  SequenceRequest request = GreedyRequest({1, 2}, 400);
  request.credit = 1;
  ASSERT_TRUE(engine.load()->Submit(request).ok());
  created->reset();
  EXPECT_EQ(ends, 1);
}

TEST_P(EngineTest, TellsWhatItServes) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const EngineInfo& info = harness.engine().info();
  EXPECT_EQ(info.config.vocab_size, 320);
  EXPECT_EQ(info.max_model_len, 512);
  EXPECT_EQ(info.defaults.eos_ids, std::vector<int32_t>{1});
  EXPECT_THAT(info.fingerprint, SizeIs(64));
  EXPECT_EQ(info.device, "cpu");

  EngineOptions other = options_;
  other.num_threads = 1;
  other.max_batch_tokens = 7;
  EXPECT_EQ(EngineHarness(other).engine().info().fingerprint, info.fingerprint);
  other.kv_format = KvFormat::kF32;
  EXPECT_NE(EngineHarness(other).engine().info().fingerprint, info.fingerprint);
  // Each way of holding the weights is another arithmetic.
  std::set<std::string> fingerprints = {info.fingerprint};
  for (const WeightChoice weights : {WeightChoice::kInt8, WeightChoice::kInt4}) {
    other = options_;
    other.weights = weights;
    EXPECT_TRUE(fingerprints.insert(EngineHarness(other).engine().info().fingerprint).second);
  }
  other = options_;
  other.weights = WeightChoice::kBf16;  // what they are anyway
  EXPECT_EQ(EngineHarness(other).engine().info().fingerprint, info.fingerprint);
  TinyModel model;
  model.seed = 2;
  EngineOptions changed = TinyOptions(WriteTinyCheckpoint("engine_other", model));
  EXPECT_NE(EngineHarness(changed).engine().info().fingerprint, info.fingerprint);
  // The same weights that end elsewhere.
  changed = TinyOptions(WriteTinyCheckpoint("engine_eos", TinyModel()));
  EXPECT_EQ(EngineHarness(changed).engine().info().fingerprint, info.fingerprint);
  WriteFile(changed.model_dir + "/generation_config.json", R"({"eos_token_id": [1, 2]})");
  EXPECT_NE(EngineHarness(changed).engine().info().fingerprint, info.fingerprint);
}

TEST_P(EngineTest, WhereSumsMayVaryNoFingerprintPromisesTokens) {
  class VaryingBackend final : public ReferenceBackend {
   public:
    bool invariant() const override { return false; }
  };
  options_.wrap_backend = [](std::unique_ptr<Backend>) -> std::unique_ptr<Backend> {
    return std::make_unique<VaryingBackend>();
  };
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  EXPECT_EQ(harness.engine().info().fingerprint, "");
  EXPECT_THAT(harness.Generate(GreedyRequest({1, 2, 3}, 4)).ids, SizeIs(4));
}

TEST_P(EngineTest, RefusesWhatItCannotServe) {
  EngineOptions options = options_;
  options.model_dir += "/missing";
  EXPECT_FALSE(EngineHarness(options).status().ok());
  options = options_;
  options.kv_cache_bytes = 1000;
  options.max_model_len = 512;
  EXPECT_EQ(EngineHarness(options).status().code(), absl::StatusCode::kResourceExhausted);
  options = options_;
  options.tp = 5;
  EXPECT_EQ(EngineHarness(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = options_;
  options.device = "tpu";
  EXPECT_EQ(EngineHarness(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace qwenserve
