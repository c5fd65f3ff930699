#include "engine/runtime/device_choice.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda_info.h"

namespace qwenserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const absl::Status kNoDriver = absl::NotFoundError("this machine has no NVIDIA driver");
const absl::Status kNoCuda = absl::UnimplementedError("this build is without CUDA");
const absl::Status kOld = absl::FailedPreconditionError("the NVIDIA driver is too old");

TEST(DeviceChoiceTest, AutoTakesTheGpuWhereEachRankHasOne) {
  std::vector<std::string> reasons;
  EXPECT_EQ(*ChooseDevice("auto", 1, 1, &reasons), "cuda");
  EXPECT_EQ(*ChooseDevice("auto", 4, 8, &reasons), "cuda");
  EXPECT_THAT(reasons, IsEmpty());
}

TEST(DeviceChoiceTest, AutoIsTheCpuOtherwiseAndSaysWhyInOneLine) {
  for (const absl::Status& status : {kNoDriver, kNoCuda}) {
    std::vector<std::string> reasons;
    EXPECT_EQ(*ChooseDevice("auto", 1, status, &reasons), "cpu");
    ASSERT_EQ(reasons.size(), 1u);
    EXPECT_THAT(reasons[0], HasSubstr(std::string(status.message())));
  }
  std::vector<std::string> reasons;
  EXPECT_EQ(*ChooseDevice("auto", 2, 1, &reasons), "cpu");
  EXPECT_THAT(reasons, ElementsAre("device: cpu (tp is 2, and this machine has 1 GPU)"));
}

TEST(DeviceChoiceTest, WhatIsThereButTooOldIsAnErrorEvenForAuto) {
  std::vector<std::string> reasons;
  const auto chosen = ChooseDevice("auto", 1, kOld, &reasons);
  EXPECT_EQ(chosen.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(reasons, IsEmpty());
}

TEST(DeviceChoiceTest, CudaIsAnErrorThatNamesWhatIsMissing) {
  std::vector<std::string> reasons;
  for (const absl::Status& status : {kNoDriver, kNoCuda, kOld}) {
    const auto chosen = ChooseDevice("cuda", 1, status, &reasons);
    EXPECT_EQ(chosen.status().code(), status.code());
    EXPECT_THAT(std::string(chosen.status().message()), HasSubstr(std::string(status.message())));
  }
  EXPECT_TRUE(absl::IsUnavailable(ChooseDevice("cuda", 2, 1, &reasons).status()));
  EXPECT_THAT(reasons, IsEmpty());
}

TEST(DeviceChoiceTest, TheCpuAsksForNoGpu) {
  std::vector<std::string> reasons;
  EXPECT_EQ(*ChooseDevice("cpu", 2, kOld, &reasons), "cpu");
  EXPECT_THAT(reasons, IsEmpty());
}

TEST(DeviceChoiceTest, TheLineNamesTheArchitectures) {
  EXPECT_THAT(GpuKernelsLine(), HasSubstr("GPU kernels: "));
  const std::string architectures = CudaArchitectures();
  EXPECT_THAT(GpuKernelsLine(), HasSubstr(architectures.empty() ? "none" : architectures));
}

}  // namespace
}  // namespace qwenserve
