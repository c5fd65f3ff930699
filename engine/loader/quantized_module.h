#ifndef QWENSERVE_ENGINE_LOADER_QUANTIZED_MODULE_H_
#define QWENSERVE_ENGINE_LOADER_QUANTIZED_MODULE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loader/checkpoint.h"
#include "engine/loader/checkpoint_matrix.h"

namespace qwenserve {

// The tensors of one quantised module "NAME": NAME.qweight and so on.
struct QuantizedTensors {
  const TensorRef* qweight = nullptr;
  const TensorRef* qzeros = nullptr;
  const TensorRef* scales = nullptr;
  const TensorRef* g_idx = nullptr;  // GPTQ; may be missing without act-order
};

// A quantised module and every tensor that belongs to it.
struct QuantizedModule {
  std::shared_ptr<const CheckpointMatrix> matrix;
  std::vector<const TensorRef*> tensors;
};

// Opens module `name`, a matrix [out_features, in_features], whose .qweight is there.
//
// GPTQ modules carry a bias although the model has none: `bias_has_place` says whether the model
// has one for this module. If not, a bias of zeros is taken as part of the module, and any other is
// an error.
//
// INVALID_ARGUMENT naming file, tensor and numbers for tensors that are missing, of a wrong type or
// shape, and for g_idx that is out of range, no order of full groups, or not allowed by the
// configuration. Scales and zeros are checked when they are read.
absl::StatusOr<QuantizedModule> OpenQuantizedModule(const Checkpoint& checkpoint,
                                                    const std::string& name, int64_t out_features,
                                                    int64_t in_features, bool bias_has_place);

// GPTQ, with b = bits and z = 32 / b numbers in an int32, lowest bits first:
//   qweight [in / z, out]: word (r, o) holds inputs z * r + j of output o
//   qzeros [groups, out / z]: word (g, c) holds outputs z * c + j, less 1 in v1
//   scales [groups, out] fp16; g_idx [in]: the group of each input
// weight = scale * (code - zero). Shapes are checked by OpenQuantizedModule. `groups`: of inputs.
std::unique_ptr<CheckpointMatrix> MakeGptqMatrix(const QuantizedTensors& tensors,
                                                 const QuantizationConfig& config,
                                                 std::vector<int32_t> groups, int64_t num_groups);

// AWQ GEMM, 4 bits: qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out] fp16. A
// word holds outputs 8c + (0, 2, 4, 6, 1, 3, 5, 7) from the lowest bits up. Zeros are as they are.
std::unique_ptr<CheckpointMatrix> MakeAwqMatrix(const QuantizedTensors& tensors,
                                                std::vector<int32_t> groups, int64_t num_groups);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_QUANTIZED_MODULE_H_
