#ifndef QWENSERVE_KERNELS_CUDA_SIMT_GRID_H_
#define QWENSERVE_KERNELS_CUDA_SIMT_GRID_H_

// Runs a kernel's grid on the host. The threads of a block are fibers; the blocks run one after
// the other, in an order drawn from the seed, and so do the warps of a block and the lanes of a
// warp between two meetings. A kernel whose result depends on such an order lacks a barrier.
//
// A meeting is any function that lanes, warps or the block enter together. All 32 lanes of a warp
// must enter the same one, at the same line; that is stricter than the machine, and what the rules
// for bodies ask (device.h). A kernel that breaks them, or in which nothing can go on, ends the
// program with a message that names kernel, block, warp and the meetings.
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/runtime/gpu_kernel.h"
#include "kernels/cuda/simt/vector_types.h"

namespace qwenserve::simt {

inline constexpr int kWarpSize = 32;
inline constexpr int kMaxThreads = 1024;
inline constexpr int kNumBarriers = 16;
// What one block may ask for: as on sm_86 and sm_89, the least of all GPUs that we run on.
inline constexpr size_t kMaxSharedBytes = 99 * 1024;
// Memory that nobody wrote: NaN as bf16 and as float, absurd as an index or a count.
inline constexpr uint32_t kGarbage = 0xffa5ffa5u;
void FillWithGarbage(void* memory, size_t bytes);

// A line of a kernel, of whoever calls a function that has one as its default argument. Clang 14
// has no std::source_location.
struct Where {
  const char* file = "";
  int line = 0;

  static constexpr Where Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// Given each lane's payload in the order of lanes, when all have arrived.
using Resolve = void (*)(void* const payloads[kWarpSize]);

struct Meeting {
  const char* name = nullptr;  // "SyncThreads"
  Resolve resolve = nullptr;   // of a warp's own meeting; null if it is nothing but a meeting
  int barrier = -1;            // 0..15: of the block; -1: of the warp alone
  int threads = 0;             // that the barrier waits for
};

class Block;

struct PendingCopy {
  void* shared;
  const void* global;  // null: zeros
};

// A thread of the block that runs.
struct alignas(64) Thread {
  Block* block = nullptr;
  int index = 0;
  bool ended = false;
  // While it waits.
  Meeting meeting;
  Where where;
  void* payload = nullptr;
  // Asynchronous copies: all that are under way, and where each committed group ends.
  std::vector<PendingCopy> copies;
  std::vector<size_t> groups;
};

// The thread that runs on this OS thread. Initial-exec: one instruction, and called from libraries
// linked at start only.
extern constinit thread_local Thread* current_thread [[gnu::tls_model("initial-exec")]];

// A block as its threads see it.
class Block {
 public:
  GridIndex index;
  GridIndex grid;
  int threads = 0;
  char* shared = nullptr;
  size_t shared_bytes = 0;
  bool waited_for_previous = false;  // somebody called GridDependencyWait

  // Enters a meeting with the current thread and returns when it is over.
  virtual void Meet(const Meeting& meeting, void* payload, Where where) = 0;
  // Ends the program, naming kernel, block and thread.
  [[noreturn]] virtual void Die(const char* what, Where where) = 0;

 protected:
  ~Block() = default;
};

// Asynchronous copies of the current thread.
void StartCopy(void* shared, const void* global, bool valid, Where where);
void CommitCopies();
void WaitForCopies(int pending);

// Dies unless [at, at + bytes) is shared memory of the block, aligned to `bytes`.
void CheckShared(const void* at, size_t bytes, Where where);

// Runs all blocks before it returns. `args` as LaunchRaw takes them.
void RunGrid(const GpuKernel& kernel, const LaunchShape& shape, const void* args, uint64_t seed);

}  // namespace qwenserve::simt

#endif  // QWENSERVE_KERNELS_CUDA_SIMT_GRID_H_
