#ifndef QWENSERVE_ENGINE_QUANTIZE_QUANTIZER_H_
#define QWENSERVE_ENGINE_QUANTIZE_QUANTIZER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "engine/quantize/calibration_pass.h"
#include "engine/quantize/gptq_solver.h"

namespace qwenserve {

struct QuantizeOptions {
  std::string model_dir;
  std::string out_dir;  // must not exist
  GptqOptions gptq;
  int num_threads = 1;
  std::string isa = "auto";
  int64_t max_file_bytes = 4'000'000'000;  // of tensors per safetensors file
};

// One matrix is done: those of a layer that have the same inputs count as one.
struct QuantizeProgress {
  int64_t layer = 0;  // from 0
  int64_t num_layers = 0;
  std::string modules;        // "q_proj, k_proj, v_proj"
  double relative_error = 0;  // as in GptqResult
  double damping = 0;
  double seconds_left = 0;  // estimated by the arithmetic done and to be done
};

struct QuantizeReport {
  int64_t calibration_tokens = 0;
  int64_t source_bytes = 0;
  int64_t written_bytes = 0;
  double mean_relative_error = 0;  // over the matrices
  double worst_relative_error = 0;
  std::string worst;  // where that was
};

// Quantises the linear layers of a bf16, fp16 or f32 checkpoint by GPTQ and writes a GPTQ
// checkpoint; embedding, head, norms and biases are copied as they are (Qwen1 checkpoints get the
// zero biases that theirs have). Layer by layer: needs, beside the mapped files, the activations
// (see CalibrationPass), one matrix as float twice and as codes, and its Hessian twice.
//
// The first error ends it, and nothing is left under out_dir: INVALID_ARGUMENT or
// FAILED_PRECONDITION (a model that is quantised already among them) naming tensor or field and
// numbers, ALREADY_EXISTS, RESOURCE_EXHAUSTED when the disk or the memory for the activations is
// too small, CANCELLED when `cancelled` says so, which is asked between matrices and pieces of text
// (a matrix with 30,000 inputs takes minutes).
absl::StatusOr<QuantizeReport> QuantizeCheckpoint(
    const QuantizeOptions& options, const CalibrationIds& ids,
    const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_QUANTIZER_H_
