#ifndef QWENSERVE_ENGINE_LOADER_CHECKPOINT_H_
#define QWENSERVE_ENGINE_LOADER_CHECKPOINT_H_

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/json_reader.h"
#include "engine/loader/load_format.h"
#include "engine/model/model_config.h"
#include "kernels/dtype.h"

namespace qwenserve {

class MappedFile;

// A tensor of a safetensors file, its bytes mapped read-only. Shape as in the file.
struct TensorRef {
  std::string name;
  std::string file;  // for messages
  DType dtype = DType::kF32;
  bool is_int32 = false;  // words of a quantised module; dtype then says nothing
  std::vector<int64_t> shape;
  const void* data = nullptr;
  int64_t bytes = 0;
  int fd = -1;            // of the file, open as long as the checkpoint
  int64_t offset = 0;     // of `data` in the file
  size_t file_index = 0;  // of the checkpoint that made it
};

// A model directory: config.json, generation_config.json, for some quantised models
// quantize_config.json or quant_config.json, and one safetensors file or several with an index.
// Opening checks every header: names unique over all files, sizes equal shape times element size,
// no overlap, nothing outside a file, the index consistent with the files. Tensors that hold no
// weights (IsIgnoredTensor) are left out. Reading weights happens later. Immutable; may be shared
// by the threads of several ranks.
class Checkpoint {
 public:
  // UNIMPLEMENTED naming the format for .bin, FP8, MoE, VL and other unsupported checkpoints, with
  // what to use instead; NOT_FOUND or INVALID_ARGUMENT naming file, tensor and numbers otherwise.
  // For kDummy only the configuration is read and there are no tensors.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir,
                                                          LoadFormat format = LoadFormat::kAuto);
  ~Checkpoint();

  const std::string& dir() const { return dir_; }
  bool is_dummy() const { return format_ == LoadFormat::kDummy; }
  const ModelConfig& config() const { return config_; }
  const GenerationDefaults& generation_defaults() const { return defaults_; }

  // Null when there is no such tensor.
  const TensorRef* Find(absl::string_view name) const;
  const std::vector<TensorRef>& tensors() const { return tensors_; }

  // Tells the kernel that this tensor's pages will not be read again.
  void ReleasePages(const TensorRef& tensor) const;

  // Hex hash over config.json, the quantisation and, per tensor, name, dtype, shape and all bytes:
  // tells checkpoints apart for the numerics fingerprint. Reads every byte, at the speed of memory
  // where the files are cached; may run beside the loading. Empty when `stop` ended it.
  std::string HashContent(std::stop_token stop = {}) const;

 private:
  Checkpoint();
  absl::Status AddFile(const std::string& name);
  absl::Status AddIndexedFiles();
  absl::Status ReadQuantizationFile(const Json& config, const std::string& config_path);
  absl::StatusOr<DType> TypeOf(const std::string& name, const std::string& dtype,
                               const std::string& path) const;
  absl::Status DecideTying(const std::string& config_path);

  std::string dir_;
  LoadFormat format_ = LoadFormat::kAuto;
  ModelConfig config_;
  GenerationDefaults defaults_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<TensorRef> tensors_;
  absl::flat_hash_map<std::string, size_t> by_name_;
  std::string description_;  // config.json and the quantisation, for the hash
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_CHECKPOINT_H_
