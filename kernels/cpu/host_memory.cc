#include "kernels/cpu/host_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

absl::Status NoRoom(size_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes of memory"));
}

absl::StatusOr<Buffer> MapHugePages(size_t bytes) {
  const size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  // One page more, to cut an aligned piece out of it.
  void* mapped =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return NoRoom(bytes);
  char* start = static_cast<char*>(mapped);
  const size_t misaligned = reinterpret_cast<uintptr_t>(start) % kHugePage;
  const size_t head = misaligned == 0 ? 0 : kHugePage - misaligned;
  if (head != 0) munmap(start, head);
  if (head != kHugePage) munmap(start + head + size, kHugePage - head);
  start += head;
  // A kernel without huge pages is slower, not wrong.
  (void)madvise(start, size, MADV_HUGEPAGE);
  return Buffer(start, bytes, [size](void* data) { munmap(data, size); });
}

}  // namespace

absl::StatusOr<Buffer> AllocateHostMemory(size_t bytes) {
  if (bytes > SIZE_MAX / 4) return NoRoom(bytes);
  if (bytes >= kHugePage) return MapHugePages(bytes);
  const size_t size = (bytes + kAlignment) / kAlignment * kAlignment;  // never 0
  void* data = std::aligned_alloc(kAlignment, size);
  if (data == nullptr) return NoRoom(bytes);
  std::memset(data, 0, size);
  return Buffer(data, bytes, [](void* pointer) { std::free(pointer); });
}

}  // namespace qwenserve
