#ifndef QWENSERVE_ENGINE_MODEL_QUANTIZATION_CONFIG_H_
#define QWENSERVE_ENGINE_MODEL_QUANTIZATION_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/base/json_reader.h"

namespace qwenserve {

enum class QuantizationMethod { kGptq, kAwq };

// How a checkpoint's quantised modules are stored (engine/loader: GptqMatrix, AwqMatrix).
struct QuantizationConfig {
  QuantizationMethod method = QuantizationMethod::kGptq;
  int64_t bits = 4;             // 4, or 8 with GPTQ
  int64_t group_size = 128;     // inputs that share a scale: 32, 64 .. 1024, or -1 for all
  bool act_order = false;       // GPTQ: g_idx is not simply input / group_size
  bool zero_minus_one = false;  // GPTQ v1: the file holds each zero point less 1
  bool symmetric = false;       // GPTQ says that every zero point is the middle
};

// A quantization description as a file holds it, and the file's name for messages.
struct QuantizationJson {
  const Json* json = nullptr;
  std::string source;
};

// Reads one description or merges two: config.json's "quantization_config" and a
// quantize_config.json (GPTQ) or quant_config.json (AWQ) beside it, either of which may be missing
// (null), not both. Reads the spellings of AutoGPTQ, GPTQModel, AutoAWQ and transformers.
//
// INVALID_ARGUMENT naming file, field and value for wrong types and for two files, or two
// spellings of one field, that contradict each other; UNIMPLEMENTED, with what to use instead, for
// other methods (FP8 and so on), widths, group sizes and layouts.
absl::StatusOr<QuantizationConfig> ParseQuantization(const QuantizationJson& in_config,
                                                     const QuantizationJson& beside_it);

// "GPTQ, 4 bits, groups of 128, act-order", for messages and hashes.
std::string DescribeQuantization(const QuantizationConfig& config);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_QUANTIZATION_CONFIG_H_
