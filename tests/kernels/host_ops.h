#ifndef QWENSERVE_TESTS_KERNELS_HOST_OPS_H_
#define QWENSERVE_TESTS_KERNELS_HOST_OPS_H_

#include <cstdint>
#include <vector>

#include "tests/kernels/device_array.h"

namespace qwenserve {

// The ops of a backend over vectors of the host, so that one test does for every device: arguments
// are copied there, and results back. Activations are rounded to the device's type on the way, and
// come back as floats.
class HostOps {
 public:
  explicit HostOps(Backend& backend) : backend_(backend) {}

  std::vector<float> Linear(const std::vector<float>& x, int64_t rows, const LinearWeight& weight,
                            const std::vector<float>& bias = {}) {
    const DeviceActivations in(backend_, x);
    const DeviceArray<float> add(backend_, bias);
    const DeviceArray<float> out(backend_, rows * weight.out_features);
    backend_.Linear(in.data(), rows, weight, bias.empty() ? nullptr : add.data(), out.data());
    return out.Download();
  }
  std::vector<float> LinearSwiGlu(const std::vector<float>& x, int64_t rows,
                                  const LinearWeight& gate_up) {
    const DeviceActivations in(backend_, x);
    const DeviceArray<float> scratch(backend_, rows * gate_up.out_features);
    const DeviceActivations out(backend_, rows * gate_up.out_features / 2);
    backend_.LinearSwiGlu(in.data(), rows, gate_up, scratch.data(), out.data());
    return out.Download();
  }
  std::vector<float> Embed(const std::vector<int32_t>& ids, const LinearWeight& table,
                           int64_t first_id) {
    const DeviceArray<int32_t> at(backend_, ids);
    const auto rows = static_cast<int64_t>(ids.size());
    const DeviceArray<float> out(
        backend_, std::vector<float>(static_cast<size_t>(rows * table.in_features), 7.0f));
    backend_.Embed(at.data(), rows, table, first_id, out.data());
    return out.Download();
  }
  std::vector<float> RmsNorm(const std::vector<float>& x, int64_t rows,
                             const std::vector<float>& weight, float epsilon) {
    const DeviceArray<float> in(backend_, x), factors(backend_, weight);
    const DeviceActivations out(backend_, static_cast<int64_t>(x.size()));
    backend_.RmsNorm(in.data(), rows, static_cast<int64_t>(weight.size()), factors.data(), epsilon,
                     out.data());
    return out.Download();
  }
  std::vector<float> AddRmsNorm(const std::vector<float>& x, int64_t rows,
                                std::vector<float>* residual, const std::vector<float>& weight,
                                float epsilon) {
    const DeviceArray<float> in(backend_, x), sum(backend_, *residual), factors(backend_, weight);
    const DeviceActivations out(backend_, static_cast<int64_t>(x.size()));
    backend_.AddRmsNorm(in.data(), rows, static_cast<int64_t>(weight.size()), sum.data(),
                        factors.data(), epsilon, out.data());
    *residual = sum.Download();
    return out.Download();
  }
  std::vector<float> SiluMul(const std::vector<float>& gate_up, int64_t rows, int64_t width) {
    const DeviceArray<float> in(backend_, gate_up);
    const DeviceActivations out(backend_, rows * width);
    backend_.SiluMul(in.data(), rows, width, out.data());
    return out.Download();
  }
  std::vector<float> GatherRows(const std::vector<float>& x, int64_t width,
                                const std::vector<int32_t>& rows) {
    const DeviceActivations in(backend_, x);
    const DeviceArray<int32_t> at(backend_, rows);
    const auto count = static_cast<int64_t>(rows.size());
    const DeviceActivations out(backend_, count * width);
    backend_.GatherRows(in.data(), width, at.data(), count, out.data());
    return out.Download();
  }
  std::vector<int32_t> TakeDrawn(const std::vector<int32_t>& drawn,
                                 const std::vector<int32_t>& ids) {
    const DeviceArray<int32_t> from(backend_, drawn), to(backend_, ids);
    backend_.TakeDrawn(from.data(), static_cast<int64_t>(ids.size()), to.data());
    return to.Download();
  }
  // `drawn`, unless null, gets what TakeDrawn would.
  std::vector<SampledToken> Sample(const std::vector<float>& logits, int64_t stride,
                                   int64_t vocab_size, absl::Span<const SampleRow> rows,
                                   std::vector<int32_t>* drawn = nullptr) {
    const DeviceArray<float> in(backend_, logits);
    const DeviceArray<int32_t> ids(backend_, static_cast<int64_t>(rows.size()));
    std::vector<SampledToken> tokens(rows.size());
    backend_.Sample(in.data(), stride, vocab_size, rows, drawn == nullptr ? nullptr : ids.data(),
                    tokens.data());
    EXPECT_TRUE(backend_.Sync().ok());
    if (drawn != nullptr) *drawn = ids.Download();
    return tokens;
  }

 private:
  Backend& backend_;
};

// As an activation comes to a product of `backend`.
inline std::vector<float> AsActivations(const Backend& backend, std::vector<float> values) {
  if (backend.activation_type() == DType::kBf16) {
    for (float& value : values) value = Bf16ToFloat(FloatToBf16(value));
  }
  return values;
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_HOST_OPS_H_
