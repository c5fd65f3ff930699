#ifndef QWENSERVE_ENGINE_QUANTIZE_OUTPUT_FOLDER_H_
#define QWENSERVE_ENGINE_QUANTIZE_OUTPUT_FOLDER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// A folder that appears under its name only when it is complete. Until then its files lie in
// "<path>.incomplete" beside it, which goes with this object; after a kill it stays, and its name
// says what it is.
class OutputFolder {
 public:
  // ALREADY_EXISTS when `path` or "<path>.incomplete" exists; NOT_FOUND or PERMISSION_DENIED with
  // the system's reason when the folder cannot be made.
  static absl::StatusOr<std::unique_ptr<OutputFolder>> Create(const std::string& path);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  // Where to write until Commit.
  const std::string& dir() const { return dir_; }

  absl::Status WriteFile(absl::string_view name, absl::string_view content);

  // Copies what belongs to a model beside its weights: all regular files of `from` but weights,
  // their index, config.json, quantize_config.json, the model card and hidden files.
  absl::Status CopyCompanions(const std::string& from);

  // Gives the folder its name.
  absl::Status Commit();

 private:
  OutputFolder(std::string path, std::string dir) : path_(std::move(path)), dir_(std::move(dir)) {}

  const std::string path_;
  const std::string dir_;
  bool committed_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_OUTPUT_FOLDER_H_
