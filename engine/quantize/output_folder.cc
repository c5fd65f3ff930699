#include "engine/quantize/output_folder.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

namespace fs = std::filesystem;

absl::Status SystemError(const std::error_code& error, absl::string_view message) {
  const std::string text = absl::StrCat(message, ": ", error.message());
  if (error == std::errc::no_space_on_device) return absl::ResourceExhaustedError(text);
  if (error == std::errc::no_such_file_or_directory) return absl::NotFoundError(text);
  if (error == std::errc::permission_denied) return absl::PermissionDeniedError(text);
  return absl::UnknownError(text);
}

bool IsCompanion(absl::string_view name) {
  if (absl::StartsWith(name, ".")) return false;
  for (const char* other : {"config.json", "quantize_config.json", "README.md"}) {
    if (name == other) return false;
  }
  for (const char* suffix : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json",
                             ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}) {
    if (absl::EndsWith(name, suffix)) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFolder>> OutputFolder::Create(const std::string& path) {
  std::string clean = path;
  while (clean.size() > 1 && clean.back() == '/') clean.pop_back();
  const std::string dir = absl::StrCat(clean, ".incomplete");
  std::error_code error;
  if (fs::exists(clean, error)) {
    return absl::AlreadyExistsError(absl::StrCat(clean, " exists; give a folder that does not"));
  }
  if (fs::exists(dir, error)) {
    return absl::AlreadyExistsError(
        absl::StrCat(dir, " exists: another run is writing it, or one was killed; remove it then"));
  }
  if (!fs::create_directory(dir, error)) {
    return SystemError(error, absl::StrCat(dir, ": cannot be created"));
  }
  return std::unique_ptr<OutputFolder>(new OutputFolder(clean, dir));
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(dir_, ignored);
}

absl::Status OutputFolder::WriteFile(absl::string_view name, absl::string_view content) {
  const std::string path = absl::StrCat(dir_, "/", name);
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  if (out) return absl::OkStatus();
  return SystemError(std::error_code(errno, std::generic_category()),
                     absl::StrCat(path, ": cannot be written"));
}

absl::Status OutputFolder::CopyCompanions(const std::string& from) {
  std::error_code error;
  for (fs::directory_iterator file(from, error), end; file != end; file.increment(error)) {
    const std::string name = file->path().filename().string();
    std::error_code ignored;
    if (!file->is_regular_file(ignored) || !IsCompanion(name)) continue;
    if (!fs::copy_file(file->path(), fs::path(dir_) / name, error)) {
      return SystemError(error,
                         absl::StrCat(file->path().string(), ": cannot be copied to ", dir_));
    }
  }
  return error ? SystemError(error, absl::StrCat(from, ": cannot be read")) : absl::OkStatus();
}

absl::Status OutputFolder::Commit() {
  std::error_code error;
  fs::rename(dir_, path_, error);
  if (error) return SystemError(error, absl::StrCat(dir_, ": cannot be renamed to ", path_));
  committed_ = true;
  return absl::OkStatus();
}

}  // namespace qwenserve
