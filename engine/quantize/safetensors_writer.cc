#include "engine/quantize/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr int64_t kAlignment = 8;

absl::Status SystemError(int error, absl::string_view path, absl::string_view what) {
  const std::string message = absl::StrCat(path, ": ", what, ": ", std::strerror(error));
  return error == ENOSPC || error == EDQUOT || error == EFBIG
             ? absl::ResourceExhaustedError(message)
             : absl::UnknownError(message);
}

absl::Status WriteAt(int fd, absl::string_view path, const void* data, int64_t bytes,
                     int64_t offset) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = pwrite(fd, from, static_cast<size_t>(bytes), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return SystemError(errno, path, absl::StrCat("cannot write ", bytes, " bytes"));
    from += count;
    offset += count;
    bytes -= count;
  }
  return absl::OkStatus();
}

// Tensors in order, a new list whenever the next one would not fit.
std::vector<std::vector<const TensorPlan*>> Distribute(const std::vector<TensorPlan>& tensors,
                                                       int64_t max_file_bytes) {
  std::vector<std::vector<const TensorPlan*>> files(1);
  int64_t bytes = 0;
  for (const TensorPlan& tensor : tensors) {
    if (!files.back().empty() && bytes + tensor.bytes() > max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().push_back(&tensor);
    bytes += tensor.bytes();
  }
  return files;
}

}  // namespace

int64_t TensorPlan::bytes() const {
  int64_t count = element_bytes();
  for (int64_t size : shape) count *= size;
  return count;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& dir, std::vector<TensorPlan> tensors, int64_t max_file_bytes) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(dir));
  const auto files = Distribute(tensors, max_file_bytes);
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name =
        files.size() == 1 ? "model.safetensors"
                          : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, files.size());
    QS_RETURN_IF_ERROR(writer->StartFile(name, files[i]));
  }
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  for (const File& file : files_) close(file.fd);
}

absl::Status SafetensorsWriter::StartFile(absl::string_view name,
                                          std::vector<const TensorPlan*> tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto* a, const auto* b) {
    return a->element_bytes() > b->element_bytes();
  });
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t end = 0;
  for (const TensorPlan* tensor : tensors) {
    header[tensor->name] = {{"dtype", tensor->dtype},
                            {"shape", tensor->shape},
                            {"data_offsets", {end, end + tensor->bytes()}}};
    const Place place{files_.size(), end, tensor->bytes(), false};
    if (!places_.emplace(tensor->name, place).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", ShownText(tensor->name), "\" would be written twice"));
    }
    end += tensor->bytes();
  }
  std::string text = header.dump();
  text.append(static_cast<size_t>((kAlignment - static_cast<int64_t>(text.size()) % kAlignment) %
                                  kAlignment),
              ' ');
  std::string start;
  for (int i = 0; i < 8; ++i) start += static_cast<char>(text.size() >> (8 * i) & 0xff);
  start += text;
  const auto data_begin = static_cast<int64_t>(start.size());
  for (const TensorPlan* tensor : tensors) places_[tensor->name].offset += data_begin;

  File file{absl::StrCat(dir_, "/", name), std::string(name), -1};
  file.fd = open(file.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file.fd < 0) return SystemError(errno, file.path, "cannot be created");
  files_.push_back(file);
  const int64_t size = data_begin + end;
  if (const int error = posix_fallocate(file.fd, 0, size); error != 0) {
    return SystemError(error, file.path, absl::StrCat("no room for its ", size, " bytes"));
  }
  return WriteAt(file.fd, file.path, start.data(), data_begin, 0);
}

absl::Status SafetensorsWriter::Write(absl::string_view name, const void* data, int64_t bytes) {
  const auto found = places_.find(name);
  QS_CHECK(found != places_.end());
  Place& place = found->second;
  QS_CHECK(place.bytes == bytes && !place.written);
  place.written = true;
  const File& file = files_[place.file];
  return WriteAt(file.fd, file.path, data, bytes, place.offset);
}

absl::Status SafetensorsWriter::WriteIndex() {
  std::map<std::string, std::string> names;
  int64_t total = 0;
  for (const auto& [name, place] : places_) {
    names[name] = files_[place.file].name;
    total += place.bytes;
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", names}};
  const std::string path = absl::StrCat(dir_, "/model.safetensors.index.json");
  std::ofstream out(path, std::ios::binary);
  out << index.dump(2) << "\n";
  out.close();
  return out ? absl::OkStatus() : SystemError(errno, path, "cannot be written");
}

absl::Status SafetensorsWriter::Finish() {
  for (const auto& [name, place] : places_) QS_CHECK(place.written);
  for (const File& file : files_) {
    if (fsync(file.fd) != 0) return SystemError(errno, file.path, "cannot be written to the disk");
  }
  return files_.size() > 1 ? WriteIndex() : absl::OkStatus();
}

}  // namespace qwenserve
