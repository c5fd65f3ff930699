// What a replica says of itself while its GPU hangs in mid-step, over the emulation: not serving,
// long before the engine gives the step up, and nothing is lost when the GPU comes back.
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/generator/generator_core.h"
#include "services/generator/submit_conversion.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"
#include "tests/kernels/cuda/simt_backend.h"
#include "tests/kernels/forwarding_backend.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

// Lets a device's work be awaited one step at a time.
class Gate {
 public:
  void Close() { Set(0); }
  void Open() { Set(SIZE_MAX); }
  void LetOnePass() { Set(1); }
  // Until somebody has stood before it so many times.
  void AwaitVisits(int visits) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return visits_ >= visits; });
  }
  void Enter() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (passes_ == 0) {
      ++visits_;
      changed_.notify_all();
      changed_.wait(lock, [&] { return passes_ > 0; });
    }
    if (passes_ != SIZE_MAX) --passes_;
  }

 private:
  void Set(size_t passes) {
    std::lock_guard<std::mutex> lock(mutex_);
    passes_ = passes;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  size_t passes_ = SIZE_MAX;
  int visits_ = 0;
};

class GatedBackend : public ForwardingBackend {
 public:
  GatedBackend(std::unique_ptr<Backend> device, Gate* gate)
      : ForwardingBackend(std::move(device)), gate_(gate) {}
  bool reads_last_id() const override { return true; }
  absl::Status Wait(uint64_t mark) override {
    gate_->Enter();
    return ForwardingBackend::Wait(mark);
  }

 private:
  Gate* const gate_;
};

class StalledDeviceTest : public testing::Test {
 protected:
  StalledDeviceTest() : registry_("generator"), metrics_(registry_, "m") {}

  void SetUp() override {
    EngineOptions options = TinyOptions(WriteTinyCheckpoint("stalled_device", TinyModel()));
    options.run_ahead = true;
    options.step_timeout = absl::Hours(1);
    options.wrap_backend = [this](std::unique_ptr<Backend>) -> std::unique_ptr<Backend> {
      GpuBackendOptions gpu;
      gpu.timeout = absl::Hours(1);
      return std::make_unique<GatedBackend>(*MakeSimtBackend(1, faults_, gpu), &gate_);
    };
    harness_.emplace(options);
    ASSERT_TRUE(harness_->status().ok()) << harness_->status();
    core_.emplace(&harness_->engine(), MakeServerHello(harness_->engine().info()), &metrics_);
  }
  void TearDown() override {
    gate_.Open();
    faults_->Resume();
  }

  void AwaitHealth(bool healthy) {
    const absl::Time deadline = absl::Now() + absl::Minutes(1);
    while (core_->Health().ok() != healthy && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_EQ(core_->Health().ok(), healthy);
  }

  std::shared_ptr<SimtFaults> faults_ = std::make_shared<SimtFaults>();
  Gate gate_;
  Metrics registry_;
  GeneratorMetrics metrics_;
  std::optional<EngineHarness> harness_;
  std::optional<GeneratorCore> core_;
};

TEST_F(StalledDeviceTest, AHangIsSeenInTimeHoweverLongSomeStepTook) {
  const SequenceRequest request = GreedyRequest({1, 2, 3}, 300);
  const Answer undisturbed = harness_->Generate(request);
  const uint64_t sequence = harness_->Submit(request);
  harness_->WaitForIds(sequence, 20);
  faults_->Hang();
  absl::SleepFor(absl::Milliseconds(1500));
  EXPECT_TRUE(core_->Health().ok());
  faults_->Resume();
  harness_->WaitForIds(sequence, 40);
  faults_->Hang();
  AwaitHealth(false);
  // With what is between two looks at it, less than the 5 s after which health must tell.
  EXPECT_EQ(core_->step_budget(), absl::Seconds(4));
  EXPECT_THAT(std::string(core_->Health().message()), HasSubstr("has not ended"));
  EXPECT_TRUE(harness_->engine().Health().ok()) << "the engine has not given it up";
  faults_->Resume();
  EXPECT_EQ(harness_->Wait(sequence).ids, undisturbed.ids);
  AwaitHealth(true);
}

// Steps run ahead, so the last sequence may end while one more step is under way.
TEST_F(StalledDeviceTest, AHangIsSeenWhenNoSequenceRunsAnyMore) {
  const uint64_t sequence = harness_->Submit(GreedyRequest({1, 2, 3}, 300));
  harness_->WaitForIds(sequence, 20);
  gate_.Close();
  gate_.AwaitVisits(1);
  harness_->engine().Cancel(sequence);
  gate_.LetOnePass();
  gate_.AwaitVisits(2);
  EXPECT_EQ(harness_->Wait(sequence).finish, FinishReason::kCancelled);
  EXPECT_EQ(harness_->engine().Stats().running, 0);
  AwaitHealth(false);
  gate_.Open();
  AwaitHealth(true);
  EXPECT_EQ(harness_->engine().Stats().step_age, absl::ZeroDuration());
}

}  // namespace
}  // namespace qwenserve
