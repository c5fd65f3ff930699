#ifndef QWENSERVE_ENGINE_QUANTIZE_SAFETENSORS_WRITER_H_
#define QWENSERVE_ENGINE_QUANTIZE_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// A tensor that is to be written.
struct TensorPlan {
  std::string name;
  std::string dtype;  // BF16, F16, F32 or I32
  std::vector<int64_t> shape;

  int64_t element_bytes() const { return dtype == "F32" || dtype == "I32" ? 4 : 2; }
  int64_t bytes() const;
};

// Writes a model's safetensors files while the tensors are still being made: names and shapes are
// known at the start, so headers and sizes are too, and all room on the disk is taken then. One
// file is "model.safetensors"; more are "model-00001-of-0000N.safetensors" and so on, with
// model.safetensors.index.json. Inside a file larger elements come first, so that all are aligned.
class SafetensorsWriter {
 public:
  // `max_file_bytes` of tensors go into a file, or a single tensor that is larger.
  // RESOURCE_EXHAUSTED naming the file and its size when the disk is full, INVALID_ARGUMENT for a
  // name that occurs twice.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& dir,
                                                                   std::vector<TensorPlan> tensors,
                                                                   int64_t max_file_bytes);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The whole of a planned tensor; in any order, each once.
  absl::Status Write(absl::string_view name, const void* data, int64_t bytes);

  // After the last tensor: everything on the disk. Every tensor must have been written.
  absl::Status Finish();

 private:
  struct File {
    std::string path;
    std::string name;
    int fd = -1;
  };
  struct Place {
    size_t file = 0;
    int64_t offset = 0;  // from the start of the file
    int64_t bytes = 0;
    bool written = false;
  };

  explicit SafetensorsWriter(std::string dir) : dir_(std::move(dir)) {}
  absl::Status StartFile(absl::string_view name, std::vector<const TensorPlan*> tensors);
  absl::Status WriteIndex();

  const std::string dir_;
  std::vector<File> files_;
  absl::flat_hash_map<std::string, Place> places_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_SAFETENSORS_WRITER_H_
