#ifndef QWENSERVE_ENGINE_QUANTIZE_GPTQ_FORMAT_H_
#define QWENSERVE_ENGINE_QUANTIZE_GPTQ_FORMAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/json_reader.h"
#include "engine/quantize/gptq_solver.h"
#include "engine/quantize/quantized_matrix.h"
#include "engine/quantize/safetensors_writer.h"

namespace qwenserve {

// The layout that GPTQ checkpoints have on model hubs. A module (a linear layer without ".weight")
// of `bits` per weight, with n = 32 / bits:
//   qweight  int32 [in / n, out]: word r of output o holds the codes of inputs n r .. n r + n - 1,
//            the first one in the lowest bits
//   qzeros   int32 [groups, out / n]: likewise over outputs; what is stored is the zero less 1
//   scales   fp16 [groups, out]
//   g_idx    int32 [in]: the group of each input
// weight(o, i) = scales[g][o] * (code - (stored zero + 1)), g = g_idx[i].
struct GptqTensors {
  std::vector<int32_t> qweight;
  std::vector<int32_t> qzeros;
  std::vector<uint16_t> scales;
  std::vector<int32_t> g_idx;
};

// Rows begin .. end - 1 of a matrix as a module of its own.
GptqTensors PackGptq(const QuantizedMatrix& matrix, int64_t begin, int64_t end);

// The entries of a module [out, in] in a file, in the order of GptqTensors.
std::vector<TensorPlan> GptqTensorPlans(absl::string_view module, int64_t out, int64_t in,
                                        const GptqOptions& options);

// INVALID_ARGUMENT with the numbers when the words of the layout would not be full.
absl::Status CheckFitsGptqLayout(absl::string_view module, int64_t out, int64_t in, int bits);

// The content of quantize_config.json; config.json's "quantization_config" has "quant_method" too.
Json GptqQuantizeConfig(const GptqOptions& options);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_GPTQ_FORMAT_H_
