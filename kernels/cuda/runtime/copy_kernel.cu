#include "kernels/cuda/runtime/copy_kernel.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

struct Copy {
  using Args = CopyArgs;
  static constexpr int kThreads = 512;
  static constexpr int kMinBlocks = 2;
  static constexpr int kAtOnce = 4;  // loads under way in a thread

  QS_DEVICE static void Run(const Args& args) {
    const auto* from = static_cast<const Word4*>(args.from);
    auto* to = static_cast<Word4*>(args.to);
    const int64_t step = static_cast<int64_t>(GridSize().x) * kThreads * kAtOnce;
    int64_t at = static_cast<int64_t>(BlockIndex().x) * kThreads * kAtOnce + ThreadIndex();
    for (; at < args.words; at += step) {
      Word4 words[kAtOnce];
      QS_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        if (at + i * kThreads < args.words) words[i] = LoadStreaming(from + at + i * kThreads);
      }
      QS_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        if (at + i * kThreads < args.words) to[at + i * kThreads] = words[i];
      }
    }
  }
};

}  // namespace

GpuKernel GetCopyKernel() { return MakeKernel<Copy>("copy"); }

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
