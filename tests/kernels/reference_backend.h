#ifndef QWENSERVE_TESTS_KERNELS_REFERENCE_BACKEND_H_
#define QWENSERVE_TESTS_KERNELS_REFERENCE_BACKEND_H_

#include <string>

#include "kernels/backend.h"

namespace qwenserve {

// How the oracle rounds what feeds products.
enum class InputRounding {
  kNone,  // not at all
  kCpu,   // of quantised products to 8 bits in blocks, of others not at all
  kGpu,   // to bf16: activations where they are made, so that products change nothing
};

// The oracle: every op as the plainest loop that says what it means, with sums and functions in
// double and each result rounded to float once. Weights are kept as they come, [out][in] in their
// own dtype, quantised ones as codes; the cache is [block][keys, values][kv_head][16][head_dim] in
// its dtype. Activations are floats, with kGpu those that bf16 has. One thread, no state.
class ReferenceBackend : public Backend {
 public:
  explicit ReferenceBackend(InputRounding rounding = InputRounding::kCpu) : rounding_(rounding) {}

  std::string kernel_table(WeightFormat) const override { return "reference-1"; }

  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  void CopyToDevice(const void* host, size_t bytes, void* device) override;
  void CopyToHost(const void* device, size_t bytes, void* host) override;
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override;
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows) override;
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const override;

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
  absl::Status Sync() override { return absl::OkStatus(); }

 private:
  // A result that feeds a product.
  float Activation(double value) const;

  const InputRounding rounding_;
};

// The ids that survive penalties, mask, top-k, top-p and min-p, with their probabilities, the most
// probable first; empty when the row can give no id. Greedy rows keep one id.
struct KeptId {
  int32_t id = 0;
  double probability = 0;
};
std::vector<KeptId> ReferenceDistribution(const float* logits, int64_t vocab_size,
                                          const SampleRow& row);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_REFERENCE_BACKEND_H_
