#ifndef QWENSERVE_TESTS_ENGINE_RUNTIME_LAZY_BACKEND_H_
#define QWENSERVE_TESTS_ENGINE_RUNTIME_LAZY_BACKEND_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/wrapping_backend.h"

namespace qwenserve {

// What LazyBackends have seen, of all ranks; outlives them.
struct LazyCounts {
  std::atomic<int64_t> copies_to_device = 0;
  std::atomic<int64_t> samples = 0;
  std::atomic<int64_t> waits_for_all =
      0;  // Wait for the last op issued: the device has nothing more to do
  std::atomic<int64_t> waits_for_some = 0;  // Wait with later ops in the queue
  std::atomic<int64_t> repeats = 0;         // Replay of what was recorded
  std::atomic<int64_t> records = 0;
  std::atomic<int64_t> filling = 0;  // rows at position -1 that attention saw
};

// A device that works as late as it may: an op is kept, and is done when somebody waits for a mark
// behind it, so whoever reads a result too early, or changes an input too early, is found out.
// Steps are filled up to powers of two, Replay repeats what it recorded, and checks that `issue`
// would have done the same. The ops are those of another backend.
class LazyBackend final : public WrappingBackend {
 public:
  LazyBackend(std::unique_ptr<Backend> device, bool reads_last_id, LazyCounts* counts)
      : WrappingBackend(std::move(device)), reads_last_id_(reads_last_id), counts_(*counts) {}

  bool reads_last_id() const override { return reads_last_id_; }

  void CopyToDevice(const void* host, size_t bytes, void* device) override;
  void CopyToHost(const void* device, size_t bytes, void* host) override;
  int64_t PaddedRows(int64_t rows) const override;
  absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) override;
  absl::Status Sync() override;
  uint64_t Mark() override { return issued_; }
  absl::Status Wait(uint64_t mark) override;

  bool needs_device_group() const override { return true; }
  absl::StatusOr<std::string> NewDeviceGroup(const std::string& library) override;
  absl::StatusOr<std::unique_ptr<Communicator>> JoinDeviceGroup(const DeviceGroup& group) override;

  // Adds an op; `name` says all its arguments.
  void Issue(std::string name, std::function<void()> run);

  void TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) override;
  void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
             float* out) override;
  void RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight, float epsilon,
               void* out) override;
  void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual, const float* weight,
                  float epsilon, void* out) override;
  void Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
              float* out) override;
  void NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads, const float* q_norm,
                       const float* k_norm, float epsilon, absl::Span<const RopeTable> rope,
                       float* qkv, const KvLayer& kv) override;
  void PagedAttention(const AttentionBatch& batch, const HeadLayout& heads, const float* qkv,
                      const KvLayer& kv, void* out) override;
  void SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) override;
  void GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                  void* out) override;
  void Sample(float* logits, int64_t stride, int64_t vocab_size, absl::Span<const SampleRow> rows,
              int32_t* drawn, SampledToken* tokens) override;

 private:
  struct Op {
    std::string name;
    std::function<void()> run;
  };

  const bool reads_last_id_;
  LazyCounts& counts_;
  std::deque<std::function<void()>> queue_;
  uint64_t issued_ = 0;  // ops since the start
  std::vector<Op>* recording_ = nullptr;
  std::map<uint64_t, std::vector<Op>> recorded_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_RUNTIME_LAZY_BACKEND_H_
