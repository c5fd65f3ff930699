#ifndef QWENSERVE_TESTS_ENGINE_TINY_CHECKPOINT_H_
#define QWENSERVE_TESTS_ENGINE_TINY_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "kernels/dtype.h"
#include "tests/engine/loader/quantized_writer.h"

namespace qwenserve {

// A model small enough to run in a millisecond and random enough to give every prompt another
// answer.
struct TinyModel {
  std::string architecture = "Qwen2ForCausalLM";
  int hidden_size = 64;
  int num_layers = 2;
  int num_query_heads = 4;
  int num_kv_heads = 2;
  int ffn_size = 128;
  int vocab_size = 320;
  int max_positions = 512;
  int eos_id = 1;
  uint32_t seed = 1;
  int nan_id = -1;  // the embedding of this id is not a number; the head is sound
  DType dtype = DType::kBf16;
};

// Writes config.json and model.safetensors into a fresh directory, which goes when the
// program ends, and returns its path.
std::string WriteTinyCheckpoint(const std::string& name, const TinyModel& model);

// Likewise with quantised layers; `model.dtype` does not count.
std::string WriteTinyQuantized(const std::string& name, const TinyModel& model,
                               const QuantizedStyle& style);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_TINY_CHECKPOINT_H_
