#include "engine/loader/safetensors.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr size_t kMaxDimensions = 8;

struct ElementType {
  absl::string_view name;
  int64_t bytes;
};
constexpr ElementType kElementTypes[] = {{"BOOL", 1},    {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1},
                                         {"F8_E5M2", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
                                         {"BF16", 2},    {"I32", 4}, {"U32", 4}, {"F32", 4},
                                         {"F64", 8},     {"I64", 8}, {"U64", 8}};

int64_t ElementBytes(absl::string_view dtype) {
  for (const ElementType& type : kElementTypes) {
    if (type.name == dtype) return type.bytes;
  }
  return 0;
}

absl::Status Bad(absl::string_view path, absl::string_view tensor, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": tensor \"", ShownText(tensor), "\": ", what));
}

// The array of non-negative integers under `key`.
absl::StatusOr<std::vector<int64_t>> ReadIntegers(const Json& entry, const char* key,
                                                  absl::string_view path, absl::string_view tensor,
                                                  size_t max_count) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) {
    return Bad(path, tensor, absl::StrCat("\"", key, "\" is missing or not an array"));
  }
  if (found->size() > max_count) {
    return Bad(path, tensor,
               absl::StrCat("\"", key, "\" has ", found->size(), " values, more than ", max_count));
  }
  std::vector<int64_t> values;
  for (const Json& value : *found) {
    if (!value.is_number_unsigned() ||
        value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Bad(path, tensor,
                 absl::StrCat("\"", key, "\" holds ", ShownJson(value), ", not a size or offset"));
    }
    values.push_back(value.get<int64_t>());
  }
  return values;
}

absl::StatusOr<int64_t> ShapeBytes(const SafetensorsEntry& entry, absl::string_view path) {
  int64_t bytes = ElementBytes(entry.dtype);
  if (bytes == 0) {
    return Bad(path, entry.name, absl::StrCat("unknown dtype \"", ShownText(entry.dtype), "\""));
  }
  for (const int64_t size : entry.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return Bad(path, entry.name,
                 absl::StrCat("shape ", ShapeString(entry.shape), " of ", entry.dtype,
                              " overflows 63 bits"));
    }
  }
  return bytes;
}

absl::StatusOr<SafetensorsEntry> ReadEntry(const std::string& name, const Json& json,
                                           int64_t data_begin, int64_t file_size,
                                           absl::string_view path) {
  SafetensorsEntry entry;
  entry.name = name;
  if (!json.is_object()) return Bad(path, name, "its header entry is not an object");
  const auto dtype = json.find("dtype");
  if (dtype == json.end() || !dtype->is_string()) {
    return Bad(path, name, "\"dtype\" is missing or not a string");
  }
  entry.dtype = dtype->get<std::string>();
  QS_ASSIGN_OR_RETURN(entry.shape, ReadIntegers(json, "shape", path, name, kMaxDimensions));
  QS_ASSIGN_OR_RETURN(const int64_t expected, ShapeBytes(entry, path));
  QS_ASSIGN_OR_RETURN(const std::vector<int64_t> range,
                      ReadIntegers(json, "data_offsets", path, name, 2));
  if (range.size() != 2 || range[0] > range[1]) {
    return Bad(path, name,
               absl::StrCat("data_offsets ", ShapeString(range), " are not [begin, end]"));
  }
  const int64_t data_size = file_size - data_begin;
  if (range[1] > data_size) {
    return Bad(path, name,
               absl::StrCat("ends at byte ", range[1], " of the data, but the file holds only ",
                            data_size, ": truncated?"));
  }
  entry.bytes = range[1] - range[0];
  if (entry.bytes != expected) {
    return Bad(path, name,
               absl::StrCat("data_offsets ", ShapeString(range), " hold ", entry.bytes,
                            " bytes, but shape ", ShapeString(entry.shape), " of ", entry.dtype,
                            " needs ", expected));
  }
  entry.offset = data_begin + range[0];
  if (entry.offset % ElementBytes(entry.dtype) != 0) {
    return Bad(path, name,
               absl::StrCat("data at byte ", entry.offset, " of the file is not aligned", " to ",
                            ElementBytes(entry.dtype), " bytes of ", entry.dtype,
                            "; save the file again"));
  }
  return entry;
}

// Sorts by position and refuses overlaps and bytes that belong to no tensor.
absl::Status CheckCoverage(std::vector<SafetensorsEntry>& entries, int64_t data_begin,
                           int64_t file_size, absl::string_view path) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  int64_t end = data_begin;
  absl::string_view before = "the header";
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset < end) {
      return Bad(path, entry.name,
                 absl::StrCat("begins at byte ", entry.offset, " and overlaps \"",
                              ShownText(before), "\", which ends at ", end));
    }
    if (entry.offset > end) {
      return Bad(path, entry.name,
                 absl::StrCat("a hole of ", entry.offset - end, " bytes before it, after \"",
                              ShownText(before), "\", which ends at ", end));
    }
    end += entry.bytes;
    before = entry.name;
  }
  if (end != file_size) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", file_size - end,
                                                   " bytes after the last tensor (\"",
                                                   ShownText(before), "\") belong to none"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensors(absl::Span<const uint8_t> file,
                                                               absl::string_view path) {
  const auto file_size = static_cast<int64_t>(file.size());
  if (file_size < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", file_size, " bytes are too few for a safetensors header"));
  }
  uint64_t length = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) length = length << 8 | file[i];
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeader)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": header length ", length,
                                                   " is more than the ", kMaxSafetensorsHeader,
                                                   " allowed; not a safetensors file?"));
  }
  if (length > static_cast<uint64_t>(file_size - kLengthBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": header of ", length, " bytes in a file of ", file_size, " bytes: truncated?"));
  }
  const absl::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  QS_ASSIGN_OR_RETURN(const Json header, ParseJson(text, absl::StrCat(path, ": header")));
  if (!header.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": header is not a JSON object"));
  }
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(length);
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Bad(path, name, "is not an object");
      continue;
    }
    QS_ASSIGN_OR_RETURN(SafetensorsEntry entry,
                        ReadEntry(name, value, data_begin, file_size, path));
    entries.push_back(std::move(entry));
  }
  QS_RETURN_IF_ERROR(CheckCoverage(entries, data_begin, file_size, path));
  return entries;
}

std::string ShapeString(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace qwenserve
