#include "kernels/cuda/simt/grid.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/simt/fiber.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace qwenserve::simt {

constinit thread_local Thread* current_thread [[gnu::tls_model("initial-exec")]] = nullptr;

namespace {

constexpr size_t kGuardBytes = 256;
constexpr int kMaxWarps = kMaxThreads / kWarpSize;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint32_t Below(uint32_t bound) {
    return static_cast<uint32_t>(((Next() >> 32) * uint64_t{bound}) >> 32);
  }

 private:
  uint64_t state_;
};

bool Same(const Thread& a, const Thread& b) {
  return a.meeting.name == b.meeting.name && a.meeting.resolve == b.meeting.resolve &&
         a.meeting.barrier == b.meeting.barrier && a.meeting.threads == b.meeting.threads &&
         a.where.line == b.where.line;
}

std::string Describe(const Thread& thread) {
  if (thread.ended) return "have ended";
  std::string text = "wait in ";
  text += thread.meeting.name;
  if (thread.meeting.barrier > 0) {
    text += "(" + std::to_string(thread.meeting.barrier) + ", " +
            std::to_string(thread.meeting.threads) + ")";
  }
  return text + " at " + thread.where.file + ":" + std::to_string(thread.where.line);
}

// Runs one block after the other; each OS thread has one, which keeps stacks and shared memory.
class BlockRunner final : public Block {
 public:
  BlockRunner() : memory_(new char[kMaxSharedBytes + 2 * kGuardBytes + 128]) {
    const auto start = reinterpret_cast<uintptr_t>(memory_.get()) + kGuardBytes;
    shared = reinterpret_cast<char*>((start + 127) & ~uintptr_t{127});
    lanes_.resize(kMaxThreads);
    for (int i = 0; i < kMaxThreads; ++i) {
      lanes_[i].block = this;
      lanes_[i].index = i;
    }
  }
  ~BlockRunner() { Unpoison(); }

  void RunBlock(const GpuKernel& kernel, const LaunchShape& shape, const void* args, uint64_t seed,
                GridIndex at) {
    kernel_ = &kernel;
    args_ = args;
    index = at;
    grid = {shape.grid_x, shape.grid_y, shape.grid_z};
    threads = static_cast<int>(kernel.threads);
    shared_bytes = shape.shared_bytes;
    waited_for_previous = false;
    random_ = Random(seed);
    num_warps_ = threads / kWarpSize;
    fibers_.Reserve(threads);
    FillShared();
    for (int i = 0; i < threads; ++i) {
      lanes_[i].ended = false;
      lanes_[i].copies.clear();
      lanes_[i].groups.clear();
    }
    for (Barrier& barrier : barriers_) barrier = Barrier();
    num_ready_ = num_warps_;
    for (int i = 0; i < num_warps_; ++i) ready_[i] = i;
    Schedule();
    CheckGuards();
    if (shape.overlaps_previous && !waited_for_previous) {
      Fail("is launched with overlaps_previous, but never calls GridDependencyWait");
    }
  }

  void Meet(const Meeting& meeting, void* payload, Where where) override {
    Thread* self = current_thread;
    self->meeting = meeting;
    self->where = where;
    self->payload = payload;
    // The last of its warp to come: Schedule looks at all.
    if (++position_ == kWarpSize) {
      fibers_.Suspend();
      return;
    }
    current_thread = NextLane();
    fibers_.Pass(current_thread->index, &RunThread, current_thread);
  }

  [[noreturn]] void Die(const char* what, Where where) override {
    Fail("thread " + std::to_string(current_thread->index) + " " + what + " at " + where.file +
         ":" + std::to_string(where.line));
  }

 private:
  struct Barrier {
    int arrived = 0;  // threads
    int wanted = 0;
    int warps[kMaxWarps] = {};
  };

  [[noreturn]] void Fail(const std::string& what) {
    std::fprintf(stderr, "simt: kernel %s, block (%u,%u,%u): %s\n", kernel_->name, index.x, index.y,
                 index.z, what.c_str());
    std::abort();
  }

  static void RunThread(void* thread) {
    auto* self = static_cast<Thread*>(thread);
    auto* block = static_cast<BlockRunner*>(self->block);
    reinterpret_cast<void (*)(const void*)>(const_cast<void*>(block->kernel_->function))(
        block->args_);
    self->ended = true;
  }

  void Schedule() {
    int running = num_warps_;
    uint32_t pick = 0;
    bool stay = false;  // with the warp, whose stacks are in the cache
    while (running > 0) {
      if (num_ready_ == 0) FailStuck();
      if (!stay) pick = random_.Below(static_cast<uint32_t>(num_ready_));
      const int warp = ready_[pick];
      RunLanes(warp);
      const Thread& first = lanes_[warp * kWarpSize];
      CheckTogether(warp);
      if (first.ended) {
        --running;
        ready_[pick] = ready_[--num_ready_];
      } else if (first.meeting.barrier < 0) {
        ResolveWarp(warp);
        stay = random_.Below(8) != 0;
        continue;
      } else {
        ready_[pick] = ready_[--num_ready_];
        Arrive(warp, first);
      }
      stay = false;
    }
  }

  void RunLanes(int warp) {
    const uint64_t draw = random_.Next();
    stride_ = static_cast<uint32_t>(draw) | 1;  // odd: every lane once
    start_ = static_cast<uint32_t>(draw >> 32);
    first_of_warp_ = warp * kWarpSize;
    // A lane that waits passes on to the next one by itself (Meet); one that ends comes back here.
    for (position_ = 0; position_ < kWarpSize; ++position_) {
      current_thread = NextLane();
      fibers_.Resume(current_thread->index, &RunThread, current_thread);
      if (position_ == kWarpSize) break;
    }
    current_thread = nullptr;
  }

  Thread* NextLane() {
    return &lanes_[first_of_warp_ + static_cast<int>((start_ + position_ * stride_) % kWarpSize)];
  }

  void CheckTogether(int warp) {
    const Thread* lanes = &lanes_[warp * kWarpSize];
    uint32_t with_first = 1;
    int other = -1;
    for (int i = 1; i < kWarpSize; ++i) {
      const bool same =
          lanes[0].ended ? lanes[i].ended : !lanes[i].ended && Same(lanes[0], lanes[i]);
      if (same) {
        with_first |= 1u << i;
      } else if (other < 0) {
        other = i;
      }
    }
    if (other < 0) return;
    char mask[16];
    std::snprintf(mask, sizeof(mask), "%08" PRIx32, with_first);
    Fail("warp " + std::to_string(warp) + " is apart: lanes " + mask + " " + Describe(lanes[0]) +
         ", lane " + std::to_string(other) + " and others " + Describe(lanes[other]));
  }

  void ResolveWarp(int warp) {
    const Thread* lanes = &lanes_[warp * kWarpSize];
    if (lanes[0].meeting.resolve == nullptr) return;
    void* payloads[kWarpSize];
    for (int i = 0; i < kWarpSize; ++i) payloads[i] = lanes[i].payload;
    lanes[0].meeting.resolve(payloads);
  }

  void Arrive(int warp, const Thread& first) {
    const int id = first.meeting.barrier;
    const int wanted = first.meeting.threads;
    if (wanted <= 0 || wanted % kWarpSize != 0 || wanted > threads) {
      Fail("a barrier for " + std::to_string(wanted) + " threads: lanes of warp " +
           std::to_string(warp) + " " + Describe(first));
    }
    Barrier& barrier = barriers_[id];
    if (barrier.arrived > 0 && barrier.wanted != wanted) {
      Fail("barrier " + std::to_string(id) + " is for " + std::to_string(barrier.wanted) +
           " threads, but lanes of warp " + std::to_string(warp) + " " + Describe(first));
    }
    barrier.wanted = wanted;
    barrier.warps[barrier.arrived / kWarpSize] = warp;
    barrier.arrived += kWarpSize;
    if (barrier.arrived < wanted) return;
    for (int i = 0; i < wanted / kWarpSize; ++i) ready_[num_ready_++] = barrier.warps[i];
    barrier = Barrier();
  }

  [[noreturn]] void FailStuck() {
    std::string what = "no thread can go on:";
    for (int warp = 0; warp < num_warps_; ++warp) {
      what += "\n  warp " + std::to_string(warp) + ": lanes " + Describe(lanes_[warp * kWarpSize]);
    }
    Fail(what);
  }

  void FillShared() {
    Unpoison();
    std::memset(shared - kGuardBytes, 0x5c, kGuardBytes);
    std::memset(shared + shared_bytes, 0x5c, kGuardBytes);
    FillWithGarbage(shared, shared_bytes);
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(shared + shared_bytes, kGuardBytes);
#endif
  }

  void Unpoison() {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(memory_.get(), kMaxSharedBytes + 2 * kGuardBytes + 128);
#endif
  }

  void CheckGuards() {
    Unpoison();
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (shared[shared_bytes + i] != 0x5c) {
        Fail("wrote beyond its " + std::to_string(shared_bytes) + " bytes of shared memory, at " +
             std::to_string(shared_bytes + i));
      }
      if (shared[-1 - static_cast<ptrdiff_t>(i)] != 0x5c) Fail("wrote before its shared memory");
    }
  }

  std::unique_ptr<char[]> memory_;
  FiberPool fibers_;
  std::vector<Thread> lanes_;
  const GpuKernel* kernel_ = nullptr;
  const void* args_ = nullptr;
  Random random_{0};
  int num_warps_ = 0;
  // The warp that runs, the order of its lanes, and how many of them have run.
  int first_of_warp_ = 0;
  uint32_t start_ = 0, stride_ = 1, position_ = 0;
  int ready_[kMaxWarps] = {};
  int num_ready_ = 0;
  std::array<Barrier, kNumBarriers> barriers_;
};

// The copy happens when it is waited for, and until then its destination is garbage: so that both
// reading it too early and overwriting what others still read show.
void Finish(const PendingCopy& copy) {
  if (copy.global == nullptr) {
    std::memset(copy.shared, 0, 16);
  } else {
    std::memcpy(copy.shared, copy.global, 16);
  }
}

}  // namespace

void FillWithGarbage(void* memory, size_t bytes) {
  // By long copies of a piece that stays in the cache: allocations may have many megabytes.
  static constexpr std::array<uint32_t, 4096> piece = [] {
    std::array<uint32_t, 4096> words = {};
    words.fill(kGarbage);
    return words;
  }();
  for (size_t i = 0; i < bytes; i += sizeof(piece)) {
    std::memcpy(static_cast<char*>(memory) + i, piece.data(), std::min(sizeof(piece), bytes - i));
  }
}

void CheckShared(const void* at, size_t bytes, Where where) {
  Block* block = current_thread->block;
  const char* first = static_cast<const char*>(at);
  if (first < block->shared || first + bytes > block->shared + block->shared_bytes) {
    block->Die("goes beyond the block's shared memory", where);
  }
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) block->Die("is not aligned", where);
}

void StartCopy(void* shared, const void* global, bool valid, Where where) {
  CheckShared(shared, 16, where);
  Thread* self = current_thread;
  if (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    self->block->Die("copies from an address that is not a multiple of 16", where);
  }
  FillWithGarbage(shared, 16);
  self->copies.push_back({shared, valid ? global : nullptr});
}

void CommitCopies() { current_thread->groups.push_back(current_thread->copies.size()); }

void WaitForCopies(int pending) {
  Thread* self = current_thread;
  if (self->groups.size() <= static_cast<size_t>(pending)) return;
  const size_t done_groups = self->groups.size() - static_cast<size_t>(pending);
  const size_t done = self->groups[done_groups - 1];
  for (size_t i = 0; i < done; ++i) Finish(self->copies[i]);
  self->copies.erase(self->copies.begin(), self->copies.begin() + static_cast<ptrdiff_t>(done));
  self->groups.erase(self->groups.begin(),
                     self->groups.begin() + static_cast<ptrdiff_t>(done_groups));
  for (size_t& end : self->groups) end -= done;
}

void RunGrid(const GpuKernel& kernel, const LaunchShape& shape, const void* args, uint64_t seed) {
  QS_CHECK(kernel.threads > 0 && kernel.threads % kWarpSize == 0 && kernel.threads <= kMaxThreads);
  QS_CHECK(shape.grid_x > 0 && shape.grid_y > 0 && shape.grid_z > 0);
  QS_CHECK(shape.grid_y <= 65535 && shape.grid_z <= 65535 && shape.grid_x <= 0x7fffffffu);
  QS_CHECK(shape.shared_bytes <= kMaxSharedBytes);
  thread_local BlockRunner runner;
  QS_CHECK(current_thread == nullptr);

  const uint64_t blocks = uint64_t{shape.grid_x} * shape.grid_y * shape.grid_z;
  Random random(seed);
  const uint64_t start = random.Next() % blocks;
  const bool backwards = random.Below(2) == 1;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t step = (start + i) % blocks;
    const uint64_t block = backwards ? blocks - 1 - step : step;
    const GridIndex at = {static_cast<uint32_t>(block % shape.grid_x),
                          static_cast<uint32_t>(block / shape.grid_x % shape.grid_y),
                          static_cast<uint32_t>(block / shape.grid_x / shape.grid_y)};
    runner.RunBlock(kernel, shape, args, random.Next(), at);
  }
}

}  // namespace qwenserve::simt
