// GpuDevice over the CUDA runtime, which is linked statically: the program starts on a machine
// without a driver, too, and finds out here.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/cuda/runtime/cuda_requirements.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/steady_clock.h"

namespace qwenserve {
namespace {

// A wait polls without a pause for so long, then with short sleeps: a step's end is seen at once,
// and a long load does not keep a core busy.
constexpr absl::Duration kSpin = absl::Microseconds(200);
constexpr absl::Duration kPollPause = absl::Microseconds(20);

std::string ErrorText(cudaError_t error) {
  return absl::StrCat(cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

int Attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}

class CudaDevice;

// Must not outlive its device.
class CudaGraph final : public GpuGraph {
 public:
  CudaGraph(const CudaDevice& device, cudaGraphExec_t exec) : device_(device), exec_(exec) {}
  ~CudaGraph() override;
  cudaGraphExec_t exec() const { return exec_; }

 private:
  const CudaDevice& device_;
  const cudaGraphExec_t exec_;
};

class CudaDevice final : public GpuDevice {
 public:
  explicit CudaDevice(int index) : index_(index) {}
  ~CudaDevice() override;
  absl::Status Init();

  const GpuProperties& properties() const override { return properties_; }
  GpuMemory memory() const override;
  void* native_stream(GpuStream stream) const override { return Native(stream); }

  absl::StatusOr<void*> Allocate(size_t bytes) override;
  void Free(void* memory) override;
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override;
  void FreePinned(void* memory) override;

  void CopyToDevice(void* device, const void* host, size_t bytes, GpuStream stream) override {
    Copy(device, host, bytes, cudaMemcpyHostToDevice, stream);
  }
  void CopyToHost(void* host, const void* device, size_t bytes, GpuStream stream) override {
    Copy(host, device, bytes, cudaMemcpyDeviceToHost, stream);
  }
  void CopyOnDevice(void* to, const void* from, size_t bytes, GpuStream stream) override {
    Copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  }
  void Fill(void* device, int byte, size_t bytes, GpuStream stream) override;
  void LaunchRaw(const GpuKernel& kernel, const LaunchShape& shape, const void* args,
                 GpuStream stream) override;

  GpuEvent Record(GpuStream stream) override;
  bool Done(GpuEvent event) override;
  void Release(GpuEvent event) override;
  void After(GpuStream stream, GpuEvent event) override;
  absl::Status Wait(GpuEvent event, absl::Duration timeout) override;
  absl::Status Synchronize(absl::Duration timeout) override;
  absl::Status Check() const override;

  void BeginCapture() override;
  absl::StatusOr<std::unique_ptr<GpuGraph>> EndCapture() override;
  void LaunchGraph(const GpuGraph& graph) override;

  // After an error or while the GPU hangs, CUDA's calls that free things fail or wait for ever.
  bool Reachable() const;

 private:
  cudaStream_t Native(GpuStream stream) const {
    return streams_[stream == GpuStream::kCompute ? 0 : 1];
  }
  // Makes this GPU that of the calling thread; false after an error, when nothing is issued.
  bool Use();
  absl::Status ErrorOf(cudaError_t error, absl::string_view what) const;
  void Keep(cudaError_t error, absl::string_view what);
  // The same of a call that issues work. While a graph is captured such an error is the graph's:
  // nothing more is issued for it, and the device goes on.
  void KeepIssued(cudaError_t error, absl::string_view what);
  void Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, GpuStream stream);
  bool Prepare(const GpuKernel& kernel);
  cudaEvent_t Native(GpuEvent event);

  const int index_;
  GpuProperties properties_;
  cudaStream_t streams_[2] = {nullptr, nullptr};
  std::set<const void*> prepared_;  // kernels
  bool stalled_ = false;            // the last wait took too long
  bool capturing_ = false;
  absl::Status capture_error_;

  mutable std::mutex mutex_;
  // Protected by mutex_.
  absl::Status error_;
  std::map<GpuEvent, cudaEvent_t> events_;
  std::vector<cudaEvent_t> idle_events_;
  GpuEvent last_event_ = 0;
};

CudaGraph::~CudaGraph() {
  if (device_.Reachable()) cudaGraphExecDestroy(exec_);
}

absl::Status CudaDevice::Init() {
  cudaDeviceProp prop;
  if (const cudaError_t error = cudaGetDeviceProperties(&prop, index_); error != cudaSuccess) {
    return absl::UnavailableError(absl::StrCat("GPU ", index_, ": ", ErrorText(error)));
  }
  properties_.name = prop.name;
  properties_.sm = prop.major * 10 + prop.minor;
  if (absl::Status status = CheckCudaGpu(index_, properties_.name, properties_.sm); !status.ok()) {
    return status;
  }
  properties_.num_sms = prop.multiProcessorCount;
  properties_.shared_bytes = prop.sharedMemPerBlockOptin;
  properties_.l2_bytes = static_cast<size_t>(Attribute(cudaDevAttrL2CacheSize, index_));
  cudaDriverGetVersion(&properties_.driver_version);
  cudaRuntimeGetVersion(&properties_.runtime_version);

  // The first call that needs the GPU itself: another process may hold it for itself alone.
  if (Use()) {
    Keep(cudaStreamCreateWithFlags(&streams_[0], cudaStreamNonBlocking), "stream");
    Keep(cudaStreamCreateWithFlags(&streams_[1], cudaStreamNonBlocking), "stream");
  }
  properties_.total_memory = memory().total;
  return Check();
}

CudaDevice::~CudaDevice() {
  if (!Reachable() || !Use()) return;
  for (const auto& [event, native] : events_) cudaEventDestroy(native);
  for (cudaEvent_t native : idle_events_) cudaEventDestroy(native);
  for (cudaStream_t stream : streams_) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
}

bool CudaDevice::Use() {
  if (!capture_error_.ok() || !Check().ok()) return false;
  const cudaError_t error = cudaSetDevice(index_);
  Keep(error, "cudaSetDevice");
  return error == cudaSuccess;
}

absl::Status CudaDevice::ErrorOf(cudaError_t error, absl::string_view what) const {
  return absl::UnavailableError(
      absl::StrCat("GPU ", index_, " (", properties_.name, "): ", what, ": ", ErrorText(error)));
}

void CudaDevice::Keep(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return;
  const std::lock_guard lock(mutex_);
  if (error_.ok()) error_ = ErrorOf(error, what);
}

void CudaDevice::KeepIssued(cudaError_t error, absl::string_view what) {
  if (!capturing_) {
    Keep(error, what);
  } else if (error != cudaSuccess && capture_error_.ok()) {
    capture_error_ = ErrorOf(error, what);
  }
}

absl::Status CudaDevice::Check() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

bool CudaDevice::Reachable() const { return !stalled_ && Check().ok(); }

GpuMemory CudaDevice::memory() const {
  GpuMemory memory;
  if (cudaSetDevice(index_) != cudaSuccess ||
      cudaMemGetInfo(&memory.free, &memory.total) != cudaSuccess) {
    return {};
  }
  return memory;
}

absl::StatusOr<void*> CudaDevice::Allocate(size_t bytes) {
  QS_CHECK(!capturing_);
  if (!Use()) return Check();
  void* memory_of = nullptr;
  const cudaError_t error = cudaMalloc(&memory_of, std::max<size_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not one of the device: forgotten by CUDA, too
    const GpuMemory now = memory();
    return absl::ResourceExhaustedError(absl::StrCat("GPU ", index_, ": cannot allocate ", bytes,
                                                     " bytes of device memory: ", now.free, " of ",
                                                     now.total, " are free"));
  }
  Keep(error, "cudaMalloc");
  if (error != cudaSuccess) return Check();
  return memory_of;
}

void CudaDevice::Free(void* memory) {
  QS_CHECK(!capturing_);
  if (memory == nullptr || !Reachable() || !Use()) return;
  Keep(cudaFree(memory), "cudaFree");
}

absl::StatusOr<void*> CudaDevice::AllocatePinned(size_t bytes) {
  QS_CHECK(!capturing_);
  if (!Use()) return Check();
  void* memory = nullptr;
  const cudaError_t error =
      cudaHostAlloc(&memory, std::max<size_t>(bytes, 1), cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes of pinned host memory"));
  }
  Keep(error, "cudaHostAlloc");
  if (error != cudaSuccess) return Check();
  return memory;
}

void CudaDevice::FreePinned(void* memory) {
  QS_CHECK(!capturing_);
  if (memory == nullptr || !Reachable() || !Use()) return;
  Keep(cudaFreeHost(memory), "cudaFreeHost");
}

void CudaDevice::Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                      GpuStream stream) {
  if (bytes == 0 || !Use()) return;
  KeepIssued(cudaMemcpyAsync(to, from, bytes, kind, Native(stream)), "copy");
}

void CudaDevice::Fill(void* device, int byte, size_t bytes, GpuStream stream) {
  if (bytes == 0 || !Use()) return;
  KeepIssued(cudaMemsetAsync(device, byte, bytes, Native(stream)), "fill");
}

// Loads the kernel, which must not happen while a graph is captured for the first time in the
// middle of it, and lets it have as much shared memory as a block can. A multiprocessor divides its
// memory between shared memory and first cache in one way at a time: all kernels ask for the same,
// else one could not begin on it before the last block of its predecessor has ended.
bool CudaDevice::Prepare(const GpuKernel& kernel) {
  if (!prepared_.insert(kernel.function).second) return true;
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel.function);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(properties_.shared_bytes));
  }
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel.function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
  }
  Keep(error, absl::StrCat("kernel ", kernel.name, ", compiled for ", CudaArchitectures()));
  return error == cudaSuccess;
}

void CudaDevice::LaunchRaw(const GpuKernel& kernel, const LaunchShape& shape, const void* args,
                           GpuStream stream) {
  QS_CHECK(shape.shared_bytes <= properties_.shared_bytes);
  if (!Use() || !Prepare(kernel)) return;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.grid_x, shape.grid_y, shape.grid_z);
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = Native(stream);
  config.attrs = &attribute;
  config.numAttrs = shape.overlaps_previous && properties_.sm >= 90 ? 1 : 0;
  void* parameters[] = {const_cast<void*>(args)};
  KeepIssued(cudaLaunchKernelExC(&config, kernel.function, parameters), kernel.name);
}

cudaEvent_t CudaDevice::Native(GpuEvent event) {
  const std::lock_guard lock(mutex_);
  const auto found = events_.find(event);
  QS_CHECK(found != events_.end());
  return found->second;
}

GpuEvent CudaDevice::Record(GpuStream stream) {
  QS_CHECK(!capturing_ || stream != GpuStream::kCompute);
  cudaEvent_t native = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_events_.empty()) {
      native = idle_events_.back();
      idle_events_.pop_back();
    }
  }
  if (Use()) {
    if (native == nullptr) {
      Keep(cudaEventCreateWithFlags(&native, cudaEventDisableTiming), "event");
    }
    if (native != nullptr) Keep(cudaEventRecord(native, Native(stream)), "event");
  }
  const std::lock_guard lock(mutex_);
  events_[++last_event_] = native;
  return last_event_;
}

bool CudaDevice::Done(GpuEvent event) {
  const cudaEvent_t native = Native(event);
  // A device that failed does nothing any more: whoever polls goes on, and meets Check.
  if (native == nullptr || !Check().ok()) return true;
  const cudaError_t error = cudaEventQuery(native);
  if (error == cudaErrorNotReady) return false;
  Keep(error, "kernel or copy");
  return true;
}

void CudaDevice::Release(GpuEvent event) {
  const std::lock_guard lock(mutex_);
  const auto found = events_.find(event);
  QS_CHECK(found != events_.end());
  if (found->second != nullptr) idle_events_.push_back(found->second);
  events_.erase(found);
}

void CudaDevice::After(GpuStream stream, GpuEvent event) {
  QS_CHECK(!capturing_ || stream != GpuStream::kCompute);
  const cudaEvent_t native = Native(event);
  if (native == nullptr || !Use()) return;
  Keep(cudaStreamWaitEvent(Native(stream), native, 0), "cudaStreamWaitEvent");
}

absl::Status CudaDevice::Wait(GpuEvent event, absl::Duration timeout) {
  const absl::Duration start = SteadyClock::Real().Now();
  while (!Done(event)) {
    const absl::Duration waited = SteadyClock::Real().Now() - start;
    if (waited >= timeout) {
      stalled_ = true;
      return absl::DeadlineExceededError(absl::StrCat(
          "GPU ", index_, ": its work was not done within ", absl::FormatDuration(timeout)));
    }
    if (waited >= kSpin) absl::SleepFor(kPollPause);
  }
  stalled_ = false;
  return Check();
}

absl::Status CudaDevice::Synchronize(absl::Duration timeout) {
  const absl::Duration deadline = SteadyClock::Real().Now() + timeout;
  const GpuEvent events[2] = {Record(GpuStream::kCompute), Record(GpuStream::kCopy)};
  absl::Status status;
  for (GpuEvent event : events) {
    if (status.ok()) status = Wait(event, deadline - SteadyClock::Real().Now());
    Release(event);
  }
  return status;
}

void CudaDevice::BeginCapture() {
  QS_CHECK(!capturing_);
  if (!Use()) return;
  capturing_ = true;
  // Of this thread alone: other ranks' threads allocate and free meanwhile.
  KeepIssued(cudaStreamBeginCapture(streams_[0], cudaStreamCaptureModeThreadLocal), "capture");
}

absl::StatusOr<std::unique_ptr<GpuGraph>> CudaDevice::EndCapture() {
  if (!capturing_) return Check();  // the device had failed before BeginCapture
  cudaGraph_t graph = nullptr;
  KeepIssued(cudaStreamEndCapture(streams_[0], &graph), "capture");
  cudaGraphExec_t exec = nullptr;
  if (Use()) KeepIssued(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  if (graph != nullptr) cudaGraphDestroy(graph);
  capturing_ = false;
  const absl::Status error = std::exchange(capture_error_, absl::OkStatus());
  if (!error.ok()) {
    cudaGetLastError();  // nor does CUDA keep it
    return error;
  }
  if (absl::Status status = Check(); !status.ok()) return status;
  if (Use()) Keep(cudaGraphUpload(exec, streams_[0]), "cudaGraphUpload");
  return std::make_unique<CudaGraph>(*this, exec);
}

void CudaDevice::LaunchGraph(const GpuGraph& graph) {
  if (!Use()) return;
  Keep(cudaGraphLaunch(static_cast<const CudaGraph&>(graph).exec(), streams_[0]), "graph");
}

}  // namespace

absl::StatusOr<int> CountCudaDevices() {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (absl::Status status = CheckCudaDriver(driver, runtime); !status.ok()) return status;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice) return absl::NotFoundError("this machine has no NVIDIA GPU");
  if (error != cudaSuccess) return absl::UnavailableError(absl::StrCat("CUDA: ", ErrorText(error)));
  return count;
}

absl::StatusOr<std::unique_ptr<GpuDevice>> MakeCudaDevice(int index) {
  const absl::StatusOr<int> count = CountCudaDevices();
  if (!count.ok()) return count.status();
  if (index < 0 || index >= *count) {
    return absl::NotFoundError(
        absl::StrCat("there is no GPU ", index, ": this machine has ", *count, ", counted from 0"));
  }
  auto device = std::make_unique<CudaDevice>(index);
  if (absl::Status status = device->Init(); !status.ok()) return status;
  return device;
}

std::string CudaArchitectures() { return QS_CUDA_ARCHITECTURE_NAMES; }

}  // namespace qwenserve
