#include "services/generator/sim_engine.h"

#include <condition_variable>
#include <map>
#include <mutex>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/services/generator/sim_harness.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// Collects what an engine reports.
class SimEngineTest : public ::testing::Test {
 protected:
  absl::Status Start(const SimOptions& sim, const EngineOptions& more = {}) {
    EngineOptions options = more;
    options.model_dir = "models/demo";
    absl::StatusOr<std::unique_ptr<Engine>> engine = SimEngine::Create(
        options, sim, "demo", DemoTokenizer(), [this](const StepEvents& events) { Take(events); });
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    return absl::OkStatus();
  }

  void Take(const StepEvents& events) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const SequenceEvent& event : events.sequences) {
      std::vector<int32_t>& ids = ids_[event.sequence];
      ids.insert(ids.end(), event.ids.begin(), event.ids.end());
      if (event.finish != FinishReason::kNone) finished_[event.sequence] = event;
    }
    changed_.notify_all();
  }

  void WaitFor(size_t finished) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this, finished] { return finished_.size() >= finished; });
  }

  SequenceRequest Request(int64_t max_tokens, uint64_t seed) {
    SequenceRequest request = SimDriver::Request({100, 101, 102}, max_tokens);
    request.sampling.seed = seed;
    return request;
  }

  static SimOptions Unpaced() {
    SimOptions sim;
    sim.step_ms = 0;
    sim.prefill_rate = 0;
    return sim;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, std::vector<int32_t>> ids_;
  std::map<uint64_t, SequenceEvent> finished_;
  std::unique_ptr<Engine> engine_;  // last: it reports until it is gone
};

TEST_F(SimEngineTest, ManySequencesGetTheTokensOfAReplicaInVirtualTime) {
  EngineOptions options;
  options.max_running = 300;
  ASSERT_TRUE(Start(Unpaced(), options).ok());
  SimReplicaOptions replica = SimDriver::DefaultOptions();
  replica.scheduler.fingerprint = engine_->info().fingerprint;
  SimDriver expected(replica);
  std::map<uint64_t, std::vector<int32_t>> wanted;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const absl::StatusOr<uint64_t> handle = engine_->Submit(Request(40, seed));
    ASSERT_TRUE(handle.ok()) << handle.status();
    wanted[*handle] = expected.Answer(Request(40, seed)).ids;
  }
  WaitFor(300);
  EXPECT_EQ(ids_, wanted);
  EXPECT_EQ(engine_->Stats().counters.generated_tokens, 300u * 40);
}

TEST_F(SimEngineTest, InfoIsWhatTheFolderAndTheFlagsSay) {
  EngineOptions options;
  options.max_model_len = 50000;
  ASSERT_TRUE(Start(Unpaced(), options).ok());
  const EngineInfo& info = engine_->info();
  EXPECT_THAT(info.fingerprint, testing::StartsWith("sim-"));
  EXPECT_EQ(info.max_model_len, 50000);
  EXPECT_EQ(info.config.vocab_size, 4096);
  EXPECT_EQ(info.device, "sim");
  EXPECT_EQ(engine_->Stats().total_blocks, 65536);
  SimOptions sim = Unpaced();
  sim.fingerprint = "other";
  ASSERT_TRUE(Start(sim).ok());
  EXPECT_EQ(engine_->info().fingerprint, "other");
}

TEST_F(SimEngineTest, ImpossibleFlagsAreNamed) {
  SimOptions sim;
  sim.kv_blocks = 3;
  EXPECT_THAT(std::string(Start(sim).message()), HasSubstr("--sim-kv-blocks is 3"));
  sim = SimOptions();
  sim.step_ms = -1;
  EXPECT_THAT(std::string(Start(sim).message()), HasSubstr("--sim-step-ms"));
  sim = SimOptions();
  sim.script = "models/demo/no.json";
  EXPECT_EQ(Start(sim).code(), absl::StatusCode::kNotFound);
}

TEST_F(SimEngineTest, ItEndsInTheMiddleOfALongStepAndTellsItsSequences) {
  SimOptions sim;
  sim.step_ms = 1e9;
  ASSERT_TRUE(Start(sim).ok());
  const uint64_t handle = *engine_->Submit(Request(40, 1));
  while (engine_->Stats().running == 0) {
  }
  engine_.reset();
  ASSERT_THAT(finished_, SizeIs(1));
  EXPECT_EQ(finished_[handle].finish, FinishReason::kError);
  EXPECT_EQ(finished_[handle].error.code(), absl::StatusCode::kUnavailable);
}

TEST_F(SimEngineTest, AStepThatTakesTooLongFailsTheReplica) {
  SimOptions sim;
  sim.step_ms = 1e9;
  EngineOptions options;
  options.step_timeout = absl::Nanoseconds(1);
  ASSERT_TRUE(Start(sim, options).ok());
  EXPECT_TRUE(engine_->Health().ok());
  ASSERT_TRUE(engine_->Submit(Request(40, 1)).ok());
  while (engine_->Health().ok()) {
  }
  EXPECT_THAT(std::string(engine_->Health().message()), HasSubstr("step 1 has taken longer"));
}

}  // namespace
}  // namespace qwenserve
