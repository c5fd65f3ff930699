// GpuDevice's promises, on the emulation and on a GPU; and what it says where there is none.
#include "kernels/cuda/runtime/gpu_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cuda/runtime/copy_kernel.h"
#include "kernels/cuda/runtime/cuda_requirements.h"
#include "kernels/cuda/runtime/simt_faults.h"

namespace qwenserve {
namespace {

using testing::Each;
using testing::HasSubstr;

enum class Where { kEmulation, kGpu };

class GpuDeviceTest : public testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (GetParam() == Where::kEmulation) {
      device_ = MakeSimtDevice(1);
      copy_ = on_simt::GetCopyKernel();
      return;
    }
#ifdef QS_WITH_CUDA
    auto device = MakeCudaDevice(0);
    if (absl::IsNotFound(device.status())) GTEST_SKIP() << device.status().message();
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    copy_ = on_cuda::GetCopyKernel();
#else
    GTEST_SKIP() << "this build is without CUDA";
#endif
  }

  char* Allocate(size_t bytes) { return static_cast<char*>(device_->Allocate(bytes).value()); }
  char* Pinned(size_t bytes) { return static_cast<char*>(device_->AllocatePinned(bytes).value()); }
  void LaunchCopy(const void* from, void* to, size_t bytes) {
    device_->Launch(copy_, {.grid_x = 3}, CopyArgs{from, to, static_cast<int64_t>(bytes / 16)});
  }

  std::unique_ptr<GpuDevice> device_;
  GpuKernel copy_;
};

TEST_P(GpuDeviceTest, CopiesFillsAndLaunches) {
  constexpr size_t kBytes = 100000 * 16;
  std::vector<char> host(kBytes), back(kBytes);
  for (size_t i = 0; i < kBytes; ++i) host[i] = static_cast<char>(i * 7 + i / 1000);
  char* a = Allocate(kBytes);
  char* b = Allocate(kBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 256, 0u);
  device_->CopyToDevice(a, host.data(), kBytes, GpuStream::kCompute);
  device_->Fill(b, 3, kBytes, GpuStream::kCompute);
  LaunchCopy(a, b, kBytes - 32);  // but for the last two words
  device_->CopyOnDevice(a, b, kBytes, GpuStream::kCompute);
  device_->CopyToHost(back.data(), a, kBytes, GpuStream::kCompute);
  ASSERT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
  std::fill(host.end() - 32, host.end(), 3);
  EXPECT_TRUE(host == back);
  device_->Free(a);
  device_->Free(b);
  device_->Free(nullptr);
}

TEST_P(GpuDeviceTest, EventsOrderStreams) {
  constexpr size_t kBytes = 1 << 20;
  char* host = Pinned(kBytes);
  char* a = Allocate(kBytes);
  char* b = Allocate(kBytes);
  std::memset(host, 5, kBytes);
  device_->CopyToDevice(a, host, kBytes, GpuStream::kCopy);
  const GpuEvent loaded = device_->Record(GpuStream::kCopy);
  EXPECT_NE(loaded, 0u);
  device_->After(GpuStream::kCompute, loaded);
  LaunchCopy(a, b, kBytes);
  const GpuEvent copied = device_->Record(GpuStream::kCompute);
  ASSERT_TRUE(device_->Wait(copied, absl::Seconds(10)).ok());
  EXPECT_TRUE(device_->Done(loaded));
  std::thread([&] { EXPECT_TRUE(device_->Done(copied) && device_->Check().ok()); }).join();
  std::memset(host, 0, kBytes);
  device_->CopyToHost(host, b, kBytes, GpuStream::kCompute);
  ASSERT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
  EXPECT_THAT(std::vector<char>(host, host + kBytes), Each(5));
  device_->Release(loaded);
  device_->Release(copied);
  device_->Free(a);
  device_->Free(b);
  device_->FreePinned(host);
}

TEST_P(GpuDeviceTest, AGraphDoesItsWorkAtEachLaunch) {
  constexpr size_t kBytes = 4096;
  char* in = Pinned(kBytes);
  char* out = Pinned(kBytes);
  char* a = Allocate(kBytes);
  char* b = Allocate(kBytes);
  device_->Fill(b, 0, kBytes, GpuStream::kCompute);
  device_->BeginCapture();
  device_->CopyToDevice(a, in, kBytes, GpuStream::kCompute);
  LaunchCopy(a, b, kBytes);
  device_->CopyToHost(out, b, kBytes, GpuStream::kCompute);
  auto graph = device_->EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  device_->CopyToHost(out, b, kBytes, GpuStream::kCompute);
  ASSERT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
  EXPECT_THAT(std::vector<char>(out, out + kBytes), Each(0));  // recorded, not run
  for (char round = 1; round < 4; ++round) {
    std::memset(in, round, kBytes);
    device_->LaunchGraph(**graph);
    ASSERT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
    EXPECT_THAT(std::vector<char>(out, out + kBytes), Each(round));
  }
  graph->reset();
  device_->Free(a);
  device_->Free(b);
  device_->FreePinned(in);
  device_->FreePinned(out);
}

// What a capture cannot record ends that capture, and not the device.
TEST_P(GpuDeviceTest, AFailedCaptureLeavesTheDeviceWell) {
  if (GetParam() == Where::kEmulation) GTEST_SKIP() << "the emulation refuses it as a mistake";
  char* a = Allocate(4096);
  std::vector<char> pageable(4096, 1);
  device_->BeginCapture();
  LaunchCopy(a, a, 4096);
  device_->Launch(copy_, {.grid_x = 1, .grid_y = 70000}, CopyArgs{a, a, 1});
  EXPECT_FALSE(device_->EndCapture().ok());
  EXPECT_TRUE(device_->Check().ok());
  device_->CopyToDevice(a, pageable.data(), 4096, GpuStream::kCompute);
  EXPECT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
  device_->Free(a);
}

TEST_P(GpuDeviceTest, SaysWhenMemoryIsShort) {
  const GpuMemory memory = device_->memory();
  EXPECT_GT(memory.free, 0u);
  EXPECT_EQ(memory.total, device_->properties().total_memory);
  const auto result = device_->Allocate(memory.total * 2);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(std::to_string(memory.total * 2)));
  EXPECT_TRUE(device_->Check().ok());
  device_->Free(Allocate(256));
}

INSTANTIATE_TEST_SUITE_P(Devices, GpuDeviceTest, testing::Values(Where::kEmulation, Where::kGpu),
                         [](const auto& info) {
                           return info.param == Where::kEmulation ? "Emulation" : "Gpu";
                         });

class SimtFaultsTest : public testing::Test {
 protected:
  void LaunchCopy(GpuStream stream = GpuStream::kCompute) {
    device_->Launch(on_simt::GetCopyKernel(), {}, CopyArgs{a_, b_, 1}, stream);
  }
  int32_t First() {
    int32_t value;
    std::memcpy(&value, b_, sizeof(value));  // device memory is the host's here
    return value;
  }
  void SetUp() override {
    a_ = device_->Allocate(16).value();
    b_ = device_->Allocate(16).value();
    device_->Fill(a_, 1, 16, GpuStream::kCompute);
    device_->Fill(b_, 0, 16, GpuStream::kCompute);
  }
  void TearDown() override {
    device_->Free(a_);
    device_->Free(b_);
  }

  std::shared_ptr<SimtFaults> faults_ = std::make_shared<SimtFaults>();
  std::unique_ptr<GpuDevice> device_ = MakeSimtDevice(1, faults_);
  void* a_ = nullptr;
  void* b_ = nullptr;
};

TEST_F(SimtFaultsTest, MemoryRunsOut) {
  faults_->SetTotalMemory(1000);
  faults_->SetTotalPinned(10);
  EXPECT_EQ(device_->memory().free, 968u);
  EXPECT_EQ(device_->Allocate(969).status().message(),
            "cannot allocate 969 bytes of device memory: 968 of 1000 are free");
  void* rest = device_->Allocate(968).value();
  device_->Free(rest);
  EXPECT_EQ(device_->AllocatePinned(11).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SimtFaultsTest, AnErrorComesLaterAndStays) {
  faults_->FailAfter(1, absl::UnavailableError("an illegal memory access"));
  EXPECT_TRUE(device_->Check().ok());
  LaunchCopy();
  EXPECT_EQ(First(), 0x01010101);
  device_->Fill(b_, 0, 16, GpuStream::kCompute);
  LaunchCopy();
  EXPECT_EQ(First(), 0x01010101);  // nothing is done any more, the fill neither
  const GpuEvent event = device_->Record(GpuStream::kCompute);
  for (const absl::Status& status : {device_->Check(), device_->Wait(event, absl::Seconds(1)),
                                     device_->Synchronize(absl::Seconds(1)), device_->Check()}) {
    EXPECT_EQ(status, absl::UnavailableError("an illegal memory access"));
  }
  EXPECT_EQ(faults_->launches(), 1);
}

TEST_F(SimtFaultsTest, AHangEndsWhenReleased) {
  faults_->Hang();
  const GpuEvent event = device_->Record(GpuStream::kCompute);
  EXPECT_FALSE(device_->Done(event));
  EXPECT_EQ(device_->Wait(event, absl::Milliseconds(5)).code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(device_->Synchronize(absl::Milliseconds(5)).code(),
            absl::StatusCode::kDeadlineExceeded);
  std::thread releaser([&] { faults_->Resume(); });
  EXPECT_TRUE(device_->Wait(event, absl::Seconds(60)).ok());
  releaser.join();
  EXPECT_TRUE(device_->Done(event));
}

TEST_F(SimtFaultsTest, CountsLaunches) {
  device_->BeginCapture();
  LaunchCopy();
  LaunchCopy();
  LaunchCopy(GpuStream::kCopy);  // not captured
  auto graph = device_->EndCapture().value();
  EXPECT_EQ(faults_->launches(), 1);
  device_->LaunchGraph(*graph);
  device_->LaunchGraph(*graph);
  EXPECT_EQ(faults_->launches(), 5);
  EXPECT_EQ(faults_->graph_launches(), 2);
}

TEST(SimtDeviceDeathTest, WritesOutsideAnAllocation) {
  for (const ptrdiff_t at : {ptrdiff_t{-1}, ptrdiff_t{1000}}) {
    EXPECT_DEATH(
        {
          auto device = MakeSimtDevice(1);
          auto* memory = static_cast<volatile char*>(device->Allocate(1000).value());
          memory[at] = 1;
          device->Free(const_cast<char*>(memory));
        },
        "something wrote (before|beyond) an allocation of 1000 bytes|use-after-poison");
    EXPECT_DEATH(
        {
          auto device = MakeSimtDevice(1);
          void* memory = device->Allocate(1000).value();
          device->Fill(static_cast<char*>(memory) + at, 0, 2, GpuStream::kCompute);
        },
        "check failed: device_.Contains");
  }
}

TEST(SimtDeviceDeathTest, AKernelWritesOutsideAnAllocation) {
  EXPECT_DEATH(
      {
        auto device = MakeSimtDevice(1);
        void* from = device->Allocate(64).value();
        void* to = device->Allocate(48).value();
        device->Launch(on_simt::GetCopyKernel(), {}, CopyArgs{from, to, 4});
      },
      "kernel copy wrote beyond an allocation of 48 bytes|use-after-poison");
}

// A plan for the largest GPU alone.
TEST(SimtDeviceDeathTest, MoreSharedMemoryThanEveryGpuHas) {
  EXPECT_DEATH(MakeSimtDevice(1)->Launch(on_simt::GetCopyKernel(), {.shared_bytes = 100 << 10},
                                         CopyArgs{nullptr, nullptr, 0}),
               "shape.shared_bytes <= properties_.shared_bytes");
}

TEST(SimtDeviceDeathTest, ACapturedCopyFromMemoryThatIsNotPinned) {
  EXPECT_DEATH(
      {
        auto device = MakeSimtDevice(1);
        int host = 0;
        void* memory = device->Allocate(4).value();
        device->BeginCapture();
        device->CopyToDevice(memory, &host, 4, GpuStream::kCompute);
      },
      "pinned_.Contains");
}

TEST(CudaRequirementsTest, DriverAndGpu) {
  EXPECT_TRUE(CheckCudaDriver(13000, 13000).ok());
  EXPECT_TRUE(CheckCudaDriver(13000, 13010).ok());
  EXPECT_TRUE(CheckCudaDriver(14000, 13000).ok());
  EXPECT_EQ(CheckCudaDriver(0, 13000), absl::NotFoundError("this machine has no NVIDIA driver"));
  EXPECT_EQ(CheckCudaDriver(12080, 13000),
            absl::FailedPreconditionError("the NVIDIA driver is too old: it supports CUDA 12.8, "
                                          "and CUDA 13.0, driver 580 or later is needed"));
  EXPECT_TRUE(CheckCudaGpu(0, "NVIDIA A100", 80).ok());
  EXPECT_TRUE(CheckCudaGpu(0, "NVIDIA B200", 100).ok());
  EXPECT_EQ(CheckCudaGpu(2, "Tesla T4", 75),
            absl::FailedPreconditionError(
                "GPU 2 (Tesla T4) is too old: its compute capability is 7.5, and 8.0 (Ampere) or "
                "later is needed"));
}

// On a machine without a usable GPU: an error at once, and the process lives.
TEST(CudaDeviceTest, SaysWhyThereIsNone) {
  const absl::Status status = CountCudaDevices().status();
  if (status.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(MakeCudaDevice(0).status(), status);
#ifdef QS_WITH_CUDA
  EXPECT_THAT(CudaArchitectures(), HasSubstr("sm_"));
  // All else is a GPU or a driver that is there and of no use: not what this machine is to be.
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("\n")));
#else
  EXPECT_EQ(CudaArchitectures(), "");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
#endif
}

TEST(CudaDeviceTest, ThereIsNoGpuBeyondTheLast) {
  const auto count = CountCudaDevices();
  if (absl::IsNotFound(count.status()) || absl::IsUnimplemented(count.status())) {
    GTEST_SKIP() << count.status().message();
  }
  ASSERT_TRUE(count.ok()) << count.status();
  for (int index : {-1, *count}) {
    EXPECT_EQ(MakeCudaDevice(index).status().code(), absl::StatusCode::kNotFound);
  }
}

}  // namespace
}  // namespace qwenserve
