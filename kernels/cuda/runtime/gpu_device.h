#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_DEVICE_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/check.h"
#include "kernels/cuda/runtime/gpu_kernel.h"
#include "kernels/cuda_info.h"

namespace qwenserve {

struct GpuProperties {
  std::string name;         // "NVIDIA H100 80GB HBM3", "SIMT emulation"
  int sm = 0;               // 80, 86, 89, 90, ...
  int num_sms = 0;          // multiprocessors
  size_t shared_bytes = 0;  // most shared memory that a block may ask for
  size_t l2_bytes = 0;
  size_t total_memory = 0;
  int driver_version = 0;  // as CUDA counts: 13000 is 13.0
  int runtime_version = 0;
};

struct GpuMemory {
  size_t free = 0;
  size_t total = 0;
};

// In one stream work runs in the order of its issue. kCopy is for loading: it runs beside kCompute.
enum class GpuStream { kCompute, kCopy };

using GpuEvent = uint64_t;  // never 0

// Work that was recorded once and can be launched again as a whole.
class GpuGraph {
 public:
  virtual ~GpuGraph() = default;
};

// The driver of one GPU, or its emulation on the host: memory, streams, events, graphs and kernel
// launches. Issuing calls don't wait and don't return errors: the first error of the device is
// kept, and Check, Wait and Synchronize return it from then on (a CUDA error is sticky: the process
// has to be restarted). UNAVAILABLE for such errors, DEADLINE_EXCEEDED for a wait that took too
// long, RESOURCE_EXHAUSTED with the sizes for memory.
//
// One thread at a time, but for Check and Done, which any thread may call.
class GpuDevice {
 public:
  virtual ~GpuDevice() = default;

  virtual const GpuProperties& properties() const = 0;
  virtual GpuMemory memory() const = 0;
  // cudaStream_t; null in the emulation.
  virtual void* native_stream(GpuStream stream) const = 0;

  // Device memory, aligned to 256 bytes, not zeroed.
  virtual absl::StatusOr<void*> Allocate(size_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // Host memory that copies to and from the device can use directly.
  virtual absl::StatusOr<void*> AllocatePinned(size_t bytes) = 0;
  virtual void FreePinned(void* memory) = 0;

  // `host` is pinned, or the copy may wait; it must live until the copy is done.
  virtual void CopyToDevice(void* device, const void* host, size_t bytes, GpuStream stream) = 0;
  virtual void CopyToHost(void* host, const void* device, size_t bytes, GpuStream stream) = 0;
  virtual void CopyOnDevice(void* to, const void* from, size_t bytes, GpuStream stream) = 0;
  virtual void Fill(void* device, int byte, size_t bytes, GpuStream stream) = 0;

  // `args`: kernel.args_bytes, copied.
  virtual void LaunchRaw(const GpuKernel& kernel, const LaunchShape& shape, const void* args,
                         GpuStream stream) = 0;
  template <typename Args>
  void Launch(const GpuKernel& kernel, const LaunchShape& shape, const Args& args,
              GpuStream stream = GpuStream::kCompute) {
    static_assert(std::is_trivially_copyable_v<Args>);
    QS_CHECK(kernel.function != nullptr && kernel.args_bytes == sizeof(Args));
    LaunchRaw(kernel, shape, &args, stream);
  }

  // An event is done when all that was issued to the stream before it is. Events are few: a caller
  // releases what it no longer needs.
  virtual GpuEvent Record(GpuStream stream) = 0;
  virtual bool Done(GpuEvent event) = 0;
  virtual void Release(GpuEvent event) = 0;
  // What is issued to `stream` from now on comes after the event.
  virtual void After(GpuStream stream, GpuEvent event) = 0;
  // Polls, so that another thread can abort what the stream waits for.
  virtual absl::Status Wait(GpuEvent event, absl::Duration timeout) = 0;
  virtual absl::Status Synchronize(absl::Duration timeout) = 0;
  virtual absl::Status Check() const = 0;

  // Between the two, work issued to kCompute is recorded instead of run. No memory is taken or
  // given back and no event of kCompute recorded meanwhile; host memory that is copied from or to
  // is pinned, and read or written at each launch of the graph. An error of EndCapture is the
  // recording's alone (unless Check says otherwise): nothing of it was run, the device goes on.
  virtual void BeginCapture() = 0;
  virtual absl::StatusOr<std::unique_ptr<GpuGraph>> EndCapture() = 0;
  virtual void LaunchGraph(const GpuGraph& graph) = 0;
};

// GPU number `index` of this machine. NOT_FOUND when there is no driver or no such GPU, UNAVAILABLE
// when there is one that cannot be used, FAILED_PRECONDITION when the driver or the GPU is too old,
// naming the version that is needed; UNIMPLEMENTED in a build without CUDA.
absl::StatusOr<std::unique_ptr<GpuDevice>> MakeCudaDevice(int index);

// One that runs kernels on the host, thread by thread: for tests of what the kernels compute. Each
// block's threads are run in an order drawn from `seed`, so that a missing barrier shows.
std::unique_ptr<GpuDevice> MakeSimtDevice(uint64_t seed);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_DEVICE_H_
