#include "kernels/cuda/runtime/upload_ring.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/cuda/runtime/file_rows.h"

namespace qwenserve {
namespace {

// Host memory as a device's, whose copies are done as late as they may be: when somebody waits, or
// has asked often enough. A buffer that is filled again too early shows in the copy.
class LateDevice final : public GpuDevice {
 public:
  ~LateDevice() override { EXPECT_EQ(pinned_, 0u); }

  const GpuProperties& properties() const override { return properties_; }
  GpuMemory memory() const override { return {}; }
  void* native_stream(GpuStream) const override { return nullptr; }
  absl::StatusOr<void*> Allocate(size_t) override { return absl::UnimplementedError(""); }
  void Free(void*) override {}
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override {
    if (pinned_ + bytes > most_pinned_) return absl::ResourceExhaustedError("no pinned memory");
    pinned_ += bytes;
    void* memory = std::malloc(bytes);
    sizes_[memory] = bytes;
    return memory;
  }
  void FreePinned(void* memory) override {
    pinned_ -= sizes_[memory];
    std::free(memory);
  }
  void CopyToDevice(void* device, const void* host, size_t bytes, GpuStream stream) override {
    EXPECT_EQ(stream, GpuStream::kCopy);
    queue_.push_back([=] { std::memcpy(device, host, bytes); });
  }
  void CopyToHost(void*, const void*, size_t, GpuStream) override {}
  void CopyOnDevice(void*, const void*, size_t, GpuStream) override {}
  void Fill(void*, int, size_t, GpuStream) override {}
  void LaunchRaw(const GpuKernel&, const LaunchShape&, const void*, GpuStream) override {}
  GpuEvent Record(GpuStream) override {
    queue_.push_back([this, event = ++last_event_] { done_ = event; });
    return last_event_;
  }
  bool Done(GpuEvent event) override {
    EXPECT_EQ(std::this_thread::get_id(), owner_);
    if (++asked_ % 5 == 0) RunUntil(event);
    return done_ >= event;
  }
  void Release(GpuEvent) override {}
  void After(GpuStream, GpuEvent) override {}
  absl::Status Wait(GpuEvent event, absl::Duration) override {
    if (!error.ok()) return error;
    RunUntil(event);
    return absl::OkStatus();
  }
  absl::Status Synchronize(absl::Duration) override { return absl::OkStatus(); }
  absl::Status Check() const override { return error; }
  void BeginCapture() override {}
  absl::StatusOr<std::unique_ptr<GpuGraph>> EndCapture() override {
    return absl::UnimplementedError("");
  }
  void LaunchGraph(const GpuGraph&) override {}

  void LimitPinned(size_t bytes) { most_pinned_ = bytes; }
  size_t pinned() const { return pinned_; }
  absl::Status error;

 private:
  void RunUntil(GpuEvent event) {
    while (done_ < event && !queue_.empty()) {
      queue_.front()();
      queue_.pop_front();
    }
  }

  const GpuProperties properties_;
  const std::thread::id owner_ = std::this_thread::get_id();
  std::deque<std::function<void()>> queue_;
  std::map<void*, size_t> sizes_;
  size_t pinned_ = 0;
  size_t most_pinned_ = size_t{1} << 30;
  GpuEvent last_event_ = 0;
  GpuEvent done_ = 0;
  int asked_ = 0;
};

uint8_t ByteOf(int64_t piece, size_t i) {
  return static_cast<uint8_t>(static_cast<size_t>(piece) * 7 + i * 13 + 1);
}

TEST(UploadRingTest, BringsEveryPieceInOrderWhateverTheThreadsAndBuffers) {
  for (const int buffers : {1, 2, 5}) {
    for (const int readers : {1, 3, 8}) {
      LateDevice device;
      const UploadOptions options = {.buffer_bytes = 64, .buffers = buffers, .readers = readers};
      auto ring = UploadRing::Create(device, options);
      ASSERT_TRUE(ring.ok()) << ring.status();
      EXPECT_EQ(device.pinned(), 64u * static_cast<size_t>(buffers));
      for (const int64_t pieces : {0, 1, 2, 40}) {
        std::vector<uint8_t> device_memory(static_cast<size_t>(pieces) * 64);
        int64_t next = 0;
        std::atomic<int> filling{0};
        const absl::Status status = (*ring)->Run(
            pieces,
            [&](int64_t piece, void* buffer) {
              EXPECT_LE(++filling, std::min(buffers, readers));
              if (piece % 3 == 0) std::this_thread::yield();
              for (size_t i = 0; i < 64; ++i) {
                static_cast<uint8_t*>(buffer)[i] = ByteOf(piece, i);
              }
              --filling;
              return absl::OkStatus();
            },
            [&](int64_t piece, const void* buffer) {
              EXPECT_EQ(piece, next++);
              device.CopyToDevice(device_memory.data() + piece * 64, buffer, 64, GpuStream::kCopy);
              return absl::OkStatus();
            });
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_EQ(next, pieces);
        ASSERT_TRUE(device.Wait(device.Record(GpuStream::kCopy), absl::Seconds(1)).ok());
        for (int64_t piece = 0; piece < pieces; ++piece) {
          for (size_t i = 0; i < 64; ++i) {
            ASSERT_EQ(device_memory[static_cast<size_t>(piece) * 64 + i], ByteOf(piece, i))
                << buffers << " buffers, " << readers << " readers, piece " << piece;
          }
        }
      }
    }
  }
}

TEST(UploadRingTest, TheFirstPieceThatCannotBeFilledEndsIt) {
  LateDevice device;
  auto ring = UploadRing::Create(device, {.buffer_bytes = 8, .buffers = 3, .readers = 3});
  ASSERT_TRUE(ring.ok());
  std::atomic<int> fills{0};
  int64_t delivered = 0;
  const auto run = [&](int64_t bad) {
    fills = 0;
    delivered = 0;
    return (*ring)->Run(
        1000,
        [&](int64_t piece, void*) {
          ++fills;
          return piece >= bad ? absl::DataLossError(absl::StrCat("piece ", piece))
                              : absl::OkStatus();
        },
        [&](int64_t, const void*) {
          ++delivered;
          return absl::OkStatus();
        });
  };
  EXPECT_EQ(run(7), absl::DataLossError("piece 7"));
  EXPECT_EQ(delivered, 7);
  EXPECT_LE(fills, 7 + 3);
  EXPECT_TRUE(run(1000).ok()) << "an error must not spoil the ring";
  EXPECT_EQ(delivered, 1000);
}

TEST(UploadRingTest, AnErrorOfTheCopyOrTheDeviceEndsIt) {
  LateDevice device;
  auto ring = UploadRing::Create(device, {.buffer_bytes = 8, .buffers = 2, .readers = 2});
  ASSERT_TRUE(ring.ok());
  const auto fill = [](int64_t, void*) { return absl::OkStatus(); };
  EXPECT_EQ((*ring)->Run(9, fill,
                         [](int64_t piece, const void*) {
                           return piece == 4 ? absl::InternalError("no") : absl::OkStatus();
                         }),
            absl::InternalError("no"));
  EXPECT_EQ((*ring)->Run(9, fill,
                         [&](int64_t piece, const void*) {
                           if (piece == 3) device.error = absl::UnavailableError("lost");
                           return absl::OkStatus();
                         }),
            absl::UnavailableError("lost"));
}

TEST(UploadRingTest, SaysWhenThereIsNoPinnedMemory) {
  LateDevice device;
  device.LimitPinned(100);
  const auto ring = UploadRing::Create(device, {.buffer_bytes = 64, .buffers = 2, .readers = 1});
  EXPECT_TRUE(absl::IsResourceExhausted(ring.status())) << ring.status();
}

// --- Rows of files --------------------------------------------------------------------------

class TemporaryFile {
 public:
  explicit TemporaryFile(const std::vector<uint8_t>& bytes)
      : path_(testing::TempDir() + "/rows_XXXXXX") {
    fd_ = mkstemp(path_.data());
    EXPECT_EQ(write(fd_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  ~TemporaryFile() {
    close(fd_);
    unlink(path_.c_str());
  }
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
};

TEST(FileRowsTest, ReadsWhatTheMappingHolds) {
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(4000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  const TemporaryFile file(bytes);
  // Whole rows, a slice of columns, rows in memory only, whole rows again.
  std::vector<RowBlock> in_file = {{bytes.data() + 100, DType::kBf16, 5, 12, file.fd(), 100},
                                   {bytes.data() + 506, DType::kBf16, 7, 40, file.fd(), 506},
                                   {bytes.data() + 2000, DType::kBf16, 3, 20, -1, 0},
                                   {bytes.data() + 3000, DType::kBf16, 9, 12, file.fd(), 3000}};
  std::vector<RowBlock> mapped = in_file;
  for (RowBlock& block : mapped) block.fd = -1;
  for (int64_t begin = 0; begin < 24; ++begin) {
    for (int64_t end = begin; end <= 24; ++end) {
      std::vector<uint8_t> one(static_cast<size_t>(end - begin) * 24 + 8, 0xee), two = one;
      ASSERT_TRUE(ReadBlockRows(in_file, 12, begin, end, one.data()).ok());
      ASSERT_TRUE(ReadBlockRows(mapped, 12, begin, end, two.data()).ok());
      EXPECT_EQ(one, two) << begin << " " << end;
      EXPECT_EQ(one[one.size() - 8], 0xee);
    }
  }
}

TEST(FileRowsTest, AFileThatEndsEarlyOrCannotBeReadIsAnError) {
  const TemporaryFile file(std::vector<uint8_t>(100));
  std::vector<uint8_t> out(200);
  RowBlock block = {nullptr, DType::kF32, 10, 4, file.fd(), 0};
  const absl::Status early = ReadBlockRows({&block, 1}, 4, 0, 10, out.data());
  EXPECT_TRUE(absl::IsDataLoss(early)) << early;
  EXPECT_NE(early.message().find("ends at 100"), absl::string_view::npos) << early;
  EXPECT_TRUE(ReadBlockRows({&block, 1}, 4, 0, 6, out.data()).ok());
  block.fd = 9999;
  const absl::Status closed = ReadBlockRows({&block, 1}, 4, 0, 1, out.data());
  EXPECT_TRUE(absl::IsUnavailable(closed)) << closed;
}

}  // namespace
}  // namespace qwenserve
