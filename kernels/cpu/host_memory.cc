#include "kernels/cpu/host_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
// What is smaller than this comes from the heap, what is larger than half a region has its own one.
constexpr size_t kSmallest = size_t{64} << 10;
constexpr size_t kRegion = size_t{64} << 20;

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

absl::Status NoRoom(size_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes of memory"));
}

// A mapping of huge pages. Memory is cut off its front and never used twice, so it comes zeroed;
// pages that nobody has written yet cost nothing.
class Region {
 public:
  // Null without room.
  static std::shared_ptr<Region> Map(size_t bytes) {
    const size_t size = RoundUp(bytes, kHugePage);
    // One page more, to cut an aligned piece out of it.
    void* mapped =
        mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* start = static_cast<char*>(mapped);
    const size_t misaligned = reinterpret_cast<uintptr_t>(start) % kHugePage;
    const size_t head = misaligned == 0 ? 0 : kHugePage - misaligned;
    if (head != 0) munmap(start, head);
    if (head != kHugePage) munmap(start + head + size, kHugePage - head);
    start += head;
    // A kernel without huge pages is slower, not wrong.
    (void)madvise(start, size, MADV_HUGEPAGE);
    return std::shared_ptr<Region>(new Region(start, size));
  }

  ~Region() { munmap(start_, size_); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  // Null when less is left.
  char* Cut(size_t bytes) {
    const size_t size = RoundUp(bytes, kAlignment);
    if (size > size_ - used_) return nullptr;
    used_ += size;
    return start_ + used_ - size;
  }

  // Gives the huge pages that lie in a piece back to the system; it is not used again.
  void Release(char* piece, size_t bytes) {
    const size_t first = RoundUp(static_cast<size_t>(piece - start_), kHugePage);
    const size_t end = (static_cast<size_t>(piece - start_) + bytes) / kHugePage * kHugePage;
    if (first < end) (void)madvise(start_ + first, end - first, MADV_DONTNEED);
  }

 private:
  Region(char* start, size_t size) : start_(start), size_(size) {}

  char* const start_;
  const size_t size_;
  size_t used_ = 0;
};

Buffer MakeBuffer(char* data, size_t bytes, std::shared_ptr<Region> region) {
  return Buffer(data, bytes, [region = std::move(region), bytes](void* piece) {
    region->Release(static_cast<char*>(piece), bytes);
  });
}

absl::StatusOr<Buffer> MapOwnRegion(size_t bytes) {
  std::shared_ptr<Region> region = Region::Map(bytes);
  if (region == nullptr) return NoRoom(bytes);
  char* data = region->Cut(bytes);
  return MakeBuffer(data, bytes, std::move(region));
}

// The region that is being filled lives as long as a piece of it.
absl::StatusOr<Buffer> CutFromSharedRegion(size_t bytes) {
  static auto* const mutex = new std::mutex;
  static auto* const current = new std::weak_ptr<Region>;  // guarded by mutex
  std::lock_guard<std::mutex> lock(*mutex);
  std::shared_ptr<Region> region = current->lock();
  char* data = region == nullptr ? nullptr : region->Cut(bytes);
  if (data == nullptr) {
    region = Region::Map(kRegion);
    if (region == nullptr) return MapOwnRegion(bytes);
    data = region->Cut(bytes);
    *current = region;
  }
  return MakeBuffer(data, bytes, std::move(region));
}

}  // namespace

absl::StatusOr<Buffer> AllocateHostMemory(size_t bytes) {
  if (bytes > SIZE_MAX / 4) return NoRoom(bytes);
  if (bytes > kRegion / 2) return MapOwnRegion(bytes);
  if (bytes >= kSmallest) return CutFromSharedRegion(bytes);
  const size_t size = (bytes + kAlignment) / kAlignment * kAlignment;  // never 0
  void* data = std::aligned_alloc(kAlignment, size);
  if (data == nullptr) return NoRoom(bytes);
  std::memset(data, 0, size);
  return Buffer(data, bytes, [](void* pointer) { std::free(pointer); });
}

}  // namespace qwenserve
