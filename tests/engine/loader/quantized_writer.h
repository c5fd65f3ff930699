#ifndef QWENSERVE_TESTS_ENGINE_LOADER_QUANTIZED_WRITER_H_
#define QWENSERVE_TESTS_ENGINE_LOADER_QUANTIZED_WRITER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/engine/loader/checkpoint_writer.h"

namespace qwenserve {

// How a quantised checkpoint is written.
struct QuantizedStyle {
  std::string method = "gptq";
  int bits = 4;
  int64_t group_size = 128;  // -1: all inputs
  bool act_order = false;    // g_idx a random order of full groups, the same within a layer's part
  bool v2 = false;           // zero points as they are
  bool symmetric = true;     // all zero points in the middle
  bool biases = true;        // GPTQ: a bias of zeros for every module that has none
  bool head = false;         // the head is quantised, too

  Json QuantizationConfig() const;
};

// A random quantised checkpoint and what each of its weights is.
struct QuantizedCheckpoint {
  Json config;  // with "quantization_config"
  std::vector<RawTensor> tensors;
  std::map<std::string, std::vector<float>> values;  // NAME.weight -> [out, in], exactly
  std::map<std::string, int64_t> widths;             // in

  RawTensor& Tensor(const std::string& name);
  std::vector<float> Row(const std::string& name, int64_t row) const;
};

// Quantises nothing: draws codes, scales and zero points for all matrices of the layers that
// `config` describes, and fp16 numbers for everything else.
QuantizedCheckpoint RandomQuantizedCheckpoint(const Json& config, const QuantizedStyle& style,
                                              uint32_t seed);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_LOADER_QUANTIZED_WRITER_H_
