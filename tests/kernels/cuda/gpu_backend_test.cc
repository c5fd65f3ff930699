// What GpuBackend adds to the ops: memory, marks, replay, and what becomes of errors.
#include "kernels/cuda/gpu_backend.h"

#include <algorithm>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/cuda/simt_backend.h"
#include "tests/kernels/host_ops.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

class GpuBackendTest : public testing::Test {
 protected:
  GpuBackendTest() {
    GpuBackendOptions options;
    options.timeout = absl::Milliseconds(30);
    options.max_graphs = 4;
    options.warn = [this](absl::string_view text) { warnings_.emplace_back(text); };
    backend_ = *MakeSimtBackend(1, faults_, options);
  }
  // Any op.
  std::vector<float> Gather() { return HostOps(*backend_).GatherRows({1, 2, 3, 4}, 2, {1}); }
  const std::vector<float> kGathered = {3, 4};

  std::shared_ptr<SimtFaults> faults_ = std::make_shared<SimtFaults>();
  std::vector<std::string> warnings_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(GpuBackendTest, SaysWhatItIs) {
  EXPECT_EQ(backend_->activation_type(), DType::kBf16);
  EXPECT_TRUE(backend_->invariant());
  EXPECT_THAT(backend_->description(), HasSubstr("SIMT emulation"));
  EXPECT_EQ(backend_->kernel_table(WeightFormat::kInt4), "cuda-simt");
  // The memory of the emulation is the host's: ranks need no group of devices.
  EXPECT_FALSE(backend_->needs_device_group());
}

TEST_F(GpuBackendTest, MemoryIsCountedAndItsEndIsAnErrorWithTheSizes) {
  const DeviceMemory before = *backend_->memory();
  {
    const Buffer buffer = *backend_->Allocate(1 << 20);
    EXPECT_LE(backend_->memory()->free_bytes, before.free_bytes - (1 << 20));
    EXPECT_EQ(backend_->memory()->total_bytes, before.total_bytes);
  }
  EXPECT_EQ(backend_->memory()->free_bytes, before.free_bytes);
  faults_->SetTotalMemory(before.total_bytes - before.free_bytes + 1000);
  const absl::Status status = backend_->Allocate(4096).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("4096"));
  // No harm done.
  faults_->SetTotalMemory(before.total_bytes);
  EXPECT_EQ(Gather(), kGathered);
  EXPECT_TRUE(backend_->Sync().ok());
}

TEST_F(GpuBackendTest, NoMemoryForItselfIsAnErrorOfTheMaker) {
  auto faults = std::make_shared<SimtFaults>();
  faults->SetTotalMemory(1000);
  EXPECT_TRUE(absl::IsResourceExhausted(MakeSimtBackend(1, faults).status()));
  faults = std::make_shared<SimtFaults>();
  faults->SetTotalPinned(1000);
  EXPECT_TRUE(absl::IsResourceExhausted(MakeSimtBackend(1, faults).status()));
}

TEST_F(GpuBackendTest, PackingWithoutMemoryIsAnError) {
  const DeviceMemory memory = *backend_->memory();
  faults_->SetTotalMemory(memory.total_bytes - memory.free_bytes + 1000);
  const std::vector<float> rows(64 * 64);
  const RowBlock block = {.data = rows.data(), .rows = 64, .row_stride = 64};
  EXPECT_TRUE(absl::IsResourceExhausted(backend_->PackLinear({&block, 1}, 64).status()));
}

TEST_F(GpuBackendTest, TheFirstDeviceErrorStays) {
  EXPECT_EQ(Gather(), kGathered);
  const absl::Status error = absl::UnavailableError("an illegal memory access");
  faults_->FailAfter(1, error);
  Gather();
  EXPECT_EQ(backend_->Sync(), error);
  Gather();
  const uint64_t mark = backend_->Mark();
  EXPECT_EQ(backend_->Wait(mark), error);
  EXPECT_EQ(backend_->Sync(), error);
  // The destructor does not wait for such a device.
}

TEST_F(GpuBackendTest, ADeviceThatHangsIsUnavailableInTime) {
  const uint64_t mark = backend_->Mark();
  faults_->Hang();
  const absl::Status status = backend_->Wait(mark);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("did not answer within 30ms"));
  // The error stays even when the device comes back: nobody knows what it has done.
  faults_->Resume();
  EXPECT_EQ(backend_->Sync(), status);
}

TEST_F(GpuBackendTest, ACopyFromADeviceThatHangsIsTheErrorOfTheNextSync) {
  const DeviceArray<int> array(*backend_, std::vector<int>{1});
  faults_->Hang();
  EXPECT_EQ(array.Download(), std::vector<int>{0});  // untouched
  EXPECT_TRUE(absl::IsUnavailable(backend_->Sync()));
  faults_->Resume();
}

TEST_F(GpuBackendTest, MarksAreWaitedForInAnyOrderAndOnce) {
  const uint64_t first = backend_->Mark(), second = backend_->Mark(), third = backend_->Mark();
  EXPECT_LT(first, second);
  EXPECT_TRUE(backend_->Wait(second).ok());
  EXPECT_TRUE(backend_->Wait(first).ok());  // done before
  EXPECT_TRUE(backend_->Wait(second).ok());
  EXPECT_TRUE(backend_->Wait(third).ok());
  const uint64_t fourth = backend_->Mark();
  EXPECT_TRUE(backend_->Sync().ok());
  EXPECT_TRUE(backend_->Wait(fourth).ok());
  // None is kept: the emulation ends the program at ten thousand.
  for (int i = 0; i < 20000; ++i) EXPECT_TRUE(backend_->Wait(backend_->Mark()).ok());
}

TEST_F(GpuBackendTest, WhatASampleDrewIsThereAfterTheWaitForALaterMark) {
  const DeviceArray<float> logits(*backend_, std::vector<float>{1, 5, 3, 2, 0, 7});
  const std::vector<SampleRow> rows(2, {.temperature = 0});
  std::vector<SampledToken> tokens(2);
  backend_->Sample(logits.data(), 3, 3, rows, nullptr, tokens.data());
  EXPECT_TRUE(backend_->Wait(backend_->Mark()).ok());
  EXPECT_EQ(tokens[0].id, 1);
  EXPECT_EQ(tokens[1].id, 2);
}

TEST_F(GpuBackendTest, StepsAreReplayedAsGraphsOverWhatTheMemoryHolds) {
  const DeviceArray<int32_t> drawn(*backend_, std::vector<int32_t>{7}), ids(*backend_, 1);
  int issued = 0;
  for (int i = 0; i < 6; ++i) {
    ids.Download();
    const int32_t id = -1, now = 10 + i;
    backend_->CopyToDevice(&id, sizeof id, ids.data());
    backend_->CopyToDevice(&now, sizeof now, drawn.data());
    EXPECT_TRUE(backend_
                    ->Replay(5,
                             [&] {
                               ++issued;
                               backend_->TakeDrawn(drawn.data(), 1, ids.data());
                               return absl::OkStatus();
                             })
                    .ok());
    EXPECT_EQ(ids.Download(), std::vector<int32_t>{now});
  }
  EXPECT_EQ(issued, 2);
  EXPECT_EQ(faults_->graph_launches(), 5);
}

TEST_F(GpuBackendTest, GraphsDoNotOutliveTheWorkspacesThatPackingReplaces) {
  int issued = 0;
  const auto replay = [&] {
    return backend_->Replay(5, [&] {
      ++issued;
      return absl::OkStatus();
    });
  };
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(replay().ok());
  EXPECT_EQ(issued, 2);
  const std::vector<float> rows(64 * 64);
  const RowBlock block = {.data = rows.data(), .rows = 64, .row_stride = 64};
  EXPECT_TRUE(backend_->PackLinear({&block, 1}, 64).ok());
  EXPECT_TRUE(replay().ok());
  EXPECT_EQ(issued, 3);
}

TEST_F(GpuBackendTest, StepsThatCannotBeRecordedAreIssuedAndSaidOnce) {
  faults_->FailCaptures();
  int issued = 0;
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(backend_
                    ->Replay(5,
                             [&] {
                               ++issued;
                               return absl::OkStatus();
                             })
                    .ok());
  }
  // The failed recording ran nothing, so its ops were issued again.
  EXPECT_EQ(issued, 6);
  EXPECT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(Gather(), kGathered);
}

TEST_F(GpuBackendTest, PaddedRowsAreFewNotBelowAndNotFarAbove) {
  std::set<int64_t> shapes;
  for (int64_t rows = 1; rows <= 1000; ++rows) {
    const int64_t padded = backend_->PaddedRows(rows);
    EXPECT_GE(padded, rows);
    EXPECT_EQ(backend_->PaddedRows(padded), padded);
    EXPECT_LE(padded - rows, rows < 64 ? 7 : std::max<int64_t>(15, rows / 4));
    if (rows <= 256) shapes.insert(padded);
  }
  EXPECT_EQ(shapes.size(), 23u);
  EXPECT_EQ(backend_->PaddedRows(1), 1);
  EXPECT_EQ(backend_->PaddedRows(3), 4);
  EXPECT_EQ(backend_->PaddedRows(9), 16);
  EXPECT_EQ(backend_->PaddedRows(65), 80);
}

}  // namespace
}  // namespace qwenserve
