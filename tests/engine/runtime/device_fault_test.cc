// What an engine does when its GPU has no memory, fails or hangs: over the emulation, which can be
// told to.
#include <mutex>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"
#include "tests/kernels/cuda/simt_backend.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

class DeviceFaultTest : public testing::Test {
 protected:
  EngineOptions Options(int tp = 1) {
    static const std::string dir = WriteTinyCheckpoint("device_fault", TinyModel());
    EngineOptions options = TinyOptions(dir);
    options.tp = tp;
    options.step_timeout = absl::Milliseconds(300);
    options.wrap_backend = [this](std::unique_ptr<Backend>) {
      auto faults = std::make_shared<SimtFaults>();
      if (memory_ != 0) faults->SetTotalMemory(memory_);
      GpuBackendOptions gpu;
      gpu.timeout = absl::Milliseconds(300);
      auto backend = MakeSimtBackend(1, faults, gpu);
      EXPECT_TRUE(backend.ok()) << backend.status();
      const std::lock_guard lock(mutex_);
      faults_.push_back(std::move(faults));
      return *std::move(backend);
    };
    return options;
  }
  // The devices that the ranks of the last engine work on: some were made for a question only.
  std::vector<std::shared_ptr<SimtFaults>> Faults() {
    const std::lock_guard lock(mutex_);
    return faults_;
  }

  // The request in flight and all later ones fail, with the reason; so does Health, soon.
  void ExpectFailed(EngineHarness& harness, uint64_t sequence, const std::string& reason) {
    const absl::Time begun = absl::Now();
    const Answer answer = harness.Wait(sequence);
    EXPECT_EQ(answer.finish, FinishReason::kError);
    EXPECT_THAT(std::string(answer.error.message()), HasSubstr(reason));
    EXPECT_THAT(std::string(harness.engine().Health().message()), HasSubstr(reason));
    EXPECT_LT(absl::Now() - begun, absl::Seconds(5));
    EXPECT_FALSE(harness.engine().Submit(GreedyRequest({1, 2, 3}, 4)).ok());
  }

  size_t memory_ = 0;  // of each device; 0: much
  std::mutex mutex_;
  std::vector<std::shared_ptr<SimtFaults>> faults_;
};

TEST_F(DeviceFaultTest, TooLittleMemoryForTheModelIsAnErrorOfTheStartWithTheSizes) {
  // Enough for the backend's own workspaces, not for weights and cache.
  for (size_t memory : {size_t{500} << 10, size_t{1} << 20, size_t{1700} << 10}) {
    memory_ = memory;
    EngineHarness harness(Options());
    EXPECT_TRUE(absl::IsResourceExhausted(harness.status())) << memory << ": " << harness.status();
    EXPECT_THAT(std::string(harness.status().message()), HasSubstr("bytes"));
  }
}

TEST_F(DeviceFaultTest, ACacheOrAHeadSizeThatItDoesNotHaveIsAnErrorOfTheStart) {
  EngineOptions options = Options();
  options.kv_format = KvFormat::kF32;
  EngineHarness f32(options);
  EXPECT_TRUE(absl::IsUnimplemented(f32.status())) << f32.status();
  EXPECT_THAT(std::string(f32.status().message()), HasSubstr("bf16 or int8, not f32"));
  TinyModel model;
  model.hidden_size = 96;  // 24 for each of four heads
  options = Options();
  options.model_dir = WriteTinyCheckpoint("device_fault_heads", model);
  EngineHarness heads(options);
  EXPECT_TRUE(absl::IsUnimplemented(heads.status())) << heads.status();
  EXPECT_THAT(std::string(heads.status().message()), HasSubstr("not 24"));
}

TEST_F(DeviceFaultTest, AnErrorOfTheDeviceEndsAllWithItsReason) {
  EngineHarness harness(Options());
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const uint64_t sequence = harness.Submit(GreedyRequest({1, 2, 3}, 400));
  harness.WaitForIds(sequence, 5);
  for (const auto& faults : Faults()) {
    faults->FailAfter(7, absl::UnavailableError("CUDA: an illegal memory access"));
  }
  ExpectFailed(harness, sequence, "an illegal memory access");
}

TEST_F(DeviceFaultTest, ADeviceThatHangsEndsAllInTime) {
  EngineHarness harness(Options());
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const uint64_t sequence = harness.Submit(GreedyRequest({1, 2, 3}, 400));
  harness.WaitForIds(sequence, 5);
  for (const auto& faults : Faults()) faults->Hang();
  ExpectFailed(harness, sequence, "the GPU did not answer within 300ms");
  for (const auto& faults : Faults()) faults->Resume();
}

TEST_F(DeviceFaultTest, NoMemoryInAStepEndsAllWithTheSizes) {
  EngineHarness harness(Options());
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const uint64_t first = harness.Submit(GreedyRequest({1, 2, 3}, 400));
  harness.WaitForIds(first, 5);
  for (const auto& faults : Faults()) {
    faults->SetTotalMemory(1000);
    faults->SetTotalPinned(1000);
  }
  // Log-probabilities of many rows at once need more than the first row did.
  uint64_t last = 0;
  for (int i = 0; i < 12; ++i) {
    SequenceRequest request = SampledRequest({1, 2, 3, i}, 50, 3);
    request.sampling.num_logprobs = 20;
    auto sequence = harness.engine().Submit(request);
    if (sequence.ok()) last = *sequence;
  }
  EXPECT_EQ(harness.Wait(first).finish, FinishReason::kError);
  ExpectFailed(harness, last, "bytes");
}

TEST_F(DeviceFaultTest, OneRanksDeviceEndsTheGroup) {
  EngineHarness harness(Options(2));
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const uint64_t sequence = harness.Submit(GreedyRequest({1, 2, 3}, 400));
  harness.WaitForIds(sequence, 5);
  Faults().back()->FailAfter(3, absl::UnavailableError("CUDA: uncorrectable ECC error"));
  ExpectFailed(harness, sequence, "uncorrectable ECC error");
}

}  // namespace
}  // namespace qwenserve
