#ifndef QWENSERVE_TESTS_PARITY_TINY_REPLICA_H_
#define QWENSERVE_TESTS_PARITY_TINY_REPLICA_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "engine/loader/weight_choice.h"
#include "kernels/backend.h"

namespace qwenserve {

// A forced token sequence; the first prompt_tokens of ids count as the prompt.
struct ForcedSequence {
  std::vector<int32_t> ids;
  int64_t prompt_tokens = 0;
};

// Some consecutive positions of one sequence in one step.
struct Segment {
  size_t sequence = 0;
  int64_t first = 0;
  int64_t count = 0;
};
using Step = std::vector<Segment>;

// Every position of every sequence in one step.
std::vector<Step> OneShot(const std::vector<ForcedSequence>& sequences);
// Sequence by sequence, `chunk` positions a step. 1 is decoding.
std::vector<Step> Chunked(const std::vector<ForcedSequence>& sequences, int64_t chunk);

struct RunOptions {
  std::function<std::unique_ptr<Backend>()> make_backend;
  int tp = 1;
  KvFormat kv_format = KvFormat::kF32;
  // Changes what the model is run as, after it has been loaded.
  std::function<void(ModelConfig&)> change_config;
  WeightChoice weights = WeightChoice::kAuto;
  // When set: takes the bytes of each layer's cache on rank 0, as they are at the end.
  std::vector<std::string>* kv_bytes = nullptr;
};

// logits[sequence][position] = [vocab_size] of every position that a step computed.
using Logits = std::vector<std::vector<std::vector<float>>>;

// Loads the checkpoint on tp ranks, threads of this process, runs the steps and returns the logits
// of rank 0; fails the test if another rank's differ in a bit.
Logits RunSteps(const std::string& model_dir, const std::vector<ForcedSequence>& sequences,
                const std::vector<Step>& steps, const RunOptions& options);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_PARITY_TINY_REPLICA_H_
