#ifndef QWENSERVE_TESTS_ENGINE_LOADER_CHECKPOINT_WRITER_H_
#define QWENSERVE_TESTS_ENGINE_LOADER_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/json_reader.h"

namespace qwenserve {

// A tensor to be written, its data as the file is to hold it.
struct RawTensor {
  std::string name;
  std::string dtype;  // BF16, F16, F32, ...
  std::vector<int64_t> shape;
  std::string data;
};

// A file with any header and data, right or wrong.
std::string SafetensorsBytes(const std::string& header, const std::string& data);
// A correct file.
std::string SafetensorsBytes(const std::vector<RawTensor>& tensors);
void WriteFile(const std::string& path, const std::string& bytes);

// All tensors of the model that `config` describes, filled with small numbers of bf16 which differ
// from element to element (and repeat after 251).
std::vector<RawTensor> ModelTensors(const Json& config);

// A fresh directory, which goes when the program ends. Of this process alone: the same test may run
// twice at a time.
std::string FreshDir(const std::string& name);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_LOADER_CHECKPOINT_WRITER_H_
