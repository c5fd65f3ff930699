// What the emulation is stricter about than a machine: a kernel that breaks the rules of device.h
// ends the program and says where, and an order that no barrier fixes is not always the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "kernels/cuda/runtime/simt_faults.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace {

using namespace on_simt;  // NOLINT: kernels are written in it

struct Out {
  int32_t* out = nullptr;
};

// Makes a kernel of a lambda without captures.
template <auto kBody, int kNumThreads>
struct Of {
  using Args = Out;
  static constexpr int kThreads = kNumThreads;
  static constexpr int kMinBlocks = 1;
  static void Run(const Args& args) { kBody(args); }
};

template <auto kBody, int kThreads = 64>
void Launch(LaunchShape shape = {}, uint64_t seed = 1, int32_t* out = nullptr) {
  simt::RunGrid(MakeKernel<Of<kBody, kThreads>>("broken"), shape, &out, seed);
}

// Not in the macro, where all is one line.
void MeetAtTwoPlaces(const Out&) {
  if (LaneIndex() % 2 == 0) {
    SyncThreads();
  } else {
    SyncThreads();
  }
}

TEST(EmulationDeathTest, LanesOfAWarpApart) {
  EXPECT_DEATH(Launch<[](const Out&) {
                 if (LaneIndex() < 16) ShuffleXor(1, 1);
               }>(),
               "kernel broken, block .0,0,0.: warp [01] is apart: lanes 0000ffff wait in "
               "ShuffleXor at .*emulation_test.cc:[0-9]+, lane 16 and others have ended");
  EXPECT_DEATH(Launch<[](const Out&) {
                 if (LaneIndex() != 5) {
                   SyncThreads();
                 } else {
                   SyncWarp();
                 }
               }>(),
               "warp [01] is apart: lanes ffffffdf wait in SyncThreads at .*, lane 5 and others "
               "wait in SyncWarp at");
  // The same function at two places.
  EXPECT_DEATH(Launch<&MeetAtTwoPlaces>(), "is apart: lanes 55555555 wait in SyncThreads");
}

TEST(EmulationDeathTest, WarpsThatNeverMeet) {
  EXPECT_DEATH(Launch<[](const Out&) {
                 if (WarpIndex() == 0) {
                   SyncNamed(1, 64);
                 } else {
                   SyncNamed(2, 64);
                 }
               }>({.grid_x = 1, .grid_y = 1}),
               "kernel broken, block .0,0,0.: no thread can go on:\n"
               "  warp 0: lanes wait in SyncNamed.1, 64. at .*emulation_test.cc:[0-9]+\n"
               "  warp 1: lanes wait in SyncNamed.2, 64. at");
  EXPECT_DEATH(Launch<[](const Out&) {
                 if (WarpIndex() == 0) SyncThreads();
               }>(),
               "no thread can go on:\n  warp 0: lanes wait in SyncThreads at .*\n"
               "  warp 1: lanes have ended");
}

TEST(EmulationDeathTest, WrongBarriers) {
  EXPECT_DEATH(Launch<[](const Out&) { SyncNamed(1, 32 * (1 + WarpIndex())); }>(),
               "(barrier 1 is for (32|64) threads, but lanes of warp|no thread can go on)");
  EXPECT_DEATH(Launch<[](const Out&) { SyncNamed(0, 64); }>(), "a barrier that is not in 1..15");
  EXPECT_DEATH(Launch<[](const Out&) { SyncNamed(16, 64); }>(), "a barrier that is not in 1..15");
  EXPECT_DEATH(Launch<[](const Out&) { SyncNamed(1, 48); }>(), "a barrier for 48 threads");
  EXPECT_DEATH(Launch<[](const Out&) { SyncNamed(1, 128); }>(), "a barrier for 128 threads");
}

TEST(EmulationDeathTest, SharedMemory) {
  EXPECT_DEATH(Launch<[](const Out&) {
                 if (ThreadIndex() == 0) const_cast<volatile char*>(SharedMemory())[100] = 1;
               }>({.shared_bytes = 100}),
               "(wrote beyond its 100 bytes of shared memory, at 100|use-after-poison)");
  EXPECT_DEATH(Launch<[](const Out&) {
                 if (ThreadIndex() == 0) const_cast<volatile char*>(SharedMemory())[-1] = 1;
               }>({.shared_bytes = 100}),
               "wrote before its shared memory");
  EXPECT_DEATH(Launch<[](const Out& args) { CopyAsync16(SharedMemory() + 96, args.out, false); }>(
                   {.shared_bytes = 100}),
               "thread [0-9]+ goes beyond the block's shared memory at");
  EXPECT_DEATH(Launch<[](const Out& args) { CopyAsync16(SharedMemory() + 8, args.out, false); }>(
                   {.shared_bytes = 100}),
               "is not aligned");
  EXPECT_DEATH(Launch<[](const Out&) {
                 uint32_t r[4];
                 LoadMatrix4(r, SharedMemory() + 16 * LaneIndex());
               }>({.shared_bytes = 500}),
               "goes beyond the block's shared memory");
}

TEST(EmulationDeathTest, MisalignedLoadsAndSelectors) {
  EXPECT_DEATH(Launch<[](const Out&) { LoadStreaming(SharedMemory() + 8); }>({.shared_bytes = 64}),
               "an address that is not a multiple of 16");
  EXPECT_DEATH(Launch<[](const Out&) { PermuteBytes(1, 2, 0x8000); }>(), "selects a byte above 7");
}

TEST(EmulationDeathTest, OverlapsWithoutWaiting) {
  EXPECT_DEATH(Launch<[](const Out&) { SyncThreads(); }>({.overlaps_previous = true}),
               "is launched with overlaps_previous, but never calls GridDependencyWait");
  Launch<[](const Out&) { GridDependencyWait(); }>({.overlaps_previous = true});
}

TEST(EmulationTest, SharedMemoryIsGarbageAtFirst) {
  std::vector<int32_t> out(2);
  Launch<[](const Out& args) {
    if (ThreadIndex() != 0) return;
    auto* shared = reinterpret_cast<float*>(SharedMemory());
    args.out[BlockIndex().x] = shared[0] != shared[0] && shared[7] != shared[7];
    shared[0] = shared[7] = 1;  // for the next block to find, were it not filled again
  }>({.grid_x = 2, .shared_bytes = 32}, 1, out.data());
  EXPECT_THAT(out, testing::Each(1));
}

TEST(EmulationTest, CopiesAreGarbageUntilWaitedFor) {
  alignas(16) static const int32_t source[4] = {1, 2, 3, 4};
  std::vector<int32_t> out(3);
  Launch<[](const Out& args) {
    auto* shared = reinterpret_cast<volatile int32_t*>(SharedMemory());
    if (ThreadIndex() != 0) return;
    CopyAsync16(SharedMemory(), source, true);
    CopyAsyncCommit();
    CopyAsyncWait<1>();
    args.out[0] = shared[1];
    CopyAsyncWait<0>();
    args.out[1] = shared[1];
    CopyAsync16(SharedMemory(), source, false);
    CopyAsyncWait<0>();  // not committed
    args.out[2] = shared[1];
  }>({.shared_bytes = 16}, 1, out.data());
  EXPECT_NE(out[0], 2);
  EXPECT_EQ(out[1], 2);
  EXPECT_NE(out[2], 0);
}

// Without the barrier between writing and reading: right in some orders only.
TEST(EmulationTest, SeedsFindARace) {
  std::set<int32_t> results;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    int32_t out = 0;
    Launch<[](const Out& args) {
      auto* shared = reinterpret_cast<volatile int32_t*>(SharedMemory());
      if (ThreadIndex() == 40) shared[0] = 7;
      if (ThreadIndex() == 3) *args.out = shared[0];
    }>({.shared_bytes = 4}, seed, &out);
    results.insert(out);
  }
  EXPECT_THAT(results, testing::SizeIs(2));
}

// Two lanes of one warp, and two blocks.
TEST(EmulationTest, SeedsPermuteLanesAndBlocks) {
  std::set<int32_t> last_lanes, last_blocks;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    int32_t lane = 0, block = 0;
    Launch<[](const Out& args) { *args.out = LaneIndex(); }, 32>({}, seed, &lane);
    Launch<[](const Out& args) { *args.out = static_cast<int32_t>(BlockIndex().x); }, 32>(
        {.grid_x = 4}, seed, &block);
    last_lanes.insert(lane);
    last_blocks.insert(block);
  }
  EXPECT_GT(last_lanes.size(), 5u);
  EXPECT_GT(last_blocks.size(), 2u);
}

TEST(EmulationTest, ManyThreadsAndDeepStacks) {
  std::vector<int32_t> out(1024);
  Launch<[](const Out& args) {
    volatile char deep[32 << 10];
    deep[0] = static_cast<char>(ThreadIndex());
    SyncThreads();
    args.out[ThreadIndex()] = deep[0] + Shuffle(ThreadIndex(), 0);
  },
         1024>({.grid_x = 3}, 1, out.data());
  for (int i = 0; i < 1024; ++i) EXPECT_EQ(out[i], static_cast<char>(i) + i / 32 * 32);
}

}  // namespace
}  // namespace qwenserve
