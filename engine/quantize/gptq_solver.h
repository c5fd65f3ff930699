#ifndef QWENSERVE_ENGINE_QUANTIZE_GPTQ_SOLVER_H_
#define QWENSERVE_ENGINE_QUANTIZE_GPTQ_SOLVER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/quantize/quantized_matrix.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

struct GptqOptions {
  int bits = 4;              // 4 or 8
  int64_t group_size = 128;  // 32, 64 or 128
  double damping = 0.01;     // share of the mean diagonal that is added to the diagonal
  bool act_order = false;  // columns by descending diagonal: g_idx is then no longer i / group_size
};

// INVALID_ARGUMENT naming the option, its value and what is allowed.
absl::Status CheckGptqOptions(const GptqOptions& options);

struct GptqResult {
  QuantizedMatrix matrix;
  // Squared error of the outputs on the calibration text over their squared size.
  double relative_error = 0;
  double damping = 0;  // that was needed
};

// Quantises `weights` [out_features, in_features] so that the outputs on the inputs behind
// `hessian` ([in_features, in_features], whole, from Hessian::Take) change least: columns are
// rounded one after the other, and what one loses the columns behind it make up for
// (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
// Transformers", 2022). A group's scale is chosen when its first column comes up, for the weights
// as they then are. Inputs that were never active are rounded to nearest. Rows are independent, so
// matrices with the same inputs may be stacked; the bits do not depend on the number of threads.
//
// Costs in_features^3 / 3 + 3/2 out_features in_features^2 multiply-adds and, beside the arguments,
// 5 bytes per weight.
//
// INVALID_ARGUMENT for weights that are not finite or too large for fp16 scales. A hessian that
// cannot be factored is tried with ten times the damping, up to 1; then FAILED_PRECONDITION.
absl::StatusOr<GptqResult> SolveGptq(ThreadPool& pool, std::vector<float> weights,
                                     int64_t out_features, std::vector<float> hessian,
                                     const GptqOptions& options);

// Each weight to the nearest value of its group's scale: what GPTQ is measured against.
absl::StatusOr<QuantizedMatrix> RoundToNearest(const std::vector<float>& weights,
                                               int64_t out_features, const GptqOptions& options);

// Sum over the rows r of `matrix` [rows, width] of r H r^T: the squared size of its outputs, or of
// the error of outputs when the matrix is a difference of two. H: [width, width].
double OutputEnergy(ThreadPool& pool, const float* matrix, int64_t rows, const float* hessian,
                    int64_t width);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_GPTQ_SOLVER_H_
