#include "engine/loader/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/mapped_file.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"
#include "engine/loader/content_hash.h"
#include "engine/loader/dummy_weights.h"
#include "engine/loader/safetensors.h"
#include "engine/model/weight_map.h"

namespace qwenserve {
namespace {

constexpr absl::string_view kSingleFile = "model.safetensors";
constexpr absl::string_view kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxIndexBytes = 64 << 20;

std::string Join(const std::string& dir, absl::string_view name) {
  return absl::StrCat(dir, "/", name);
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// What to say when a directory has no safetensors: most often it holds another format.
absl::Status NoWeights(const std::string& dir) {
  const struct {
    absl::string_view suffix;
    absl::string_view format;
  } kFormats[] = {{".bin", "PyTorch .bin"}, {".pt", "PyTorch .pt"},   {".pth", "PyTorch .pth"},
                  {".gguf", "GGUF"},        {".ggml", "GGML"},        {".onnx", "ONNX"},
                  {".msgpack", "Flax"},     {".h5", "TensorFlow .h5"}};
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(dir, ignored)) {
    const std::string name = file.path().filename().string();
    for (const auto& format : kFormats) {
      if (absl::EndsWith(name, format.suffix)) {
        return absl::UnimplementedError(absl::StrCat(
            dir, ": ", format.format, " checkpoints (", name,
            ") are not supported; use the safetensors files of the model, or convert it"));
      }
    }
  }
  return absl::NotFoundError(
      absl::StrCat(dir, ": neither ", kSingleFile, " nor ", kIndexFile, " is there"));
}

// A file name is only a name, short and printable: an index must not point elsewhere.
bool IsPlainFileName(absl::string_view name) {
  return absl::EndsWith(name, ".safetensors") && !absl::StrContains(name, "/") &&
         ShownText(name) == name;
}

// name -> file of an index.
absl::StatusOr<absl::flat_hash_map<std::string, std::string>> ReadIndex(const std::string& path) {
  QS_ASSIGN_OR_RETURN(const Json index, ReadJsonFile(path, kMaxIndexBytes));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": \"weight_map\" is missing, empty or not an object"));
  }
  absl::flat_hash_map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!IsPlainFileName(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor \"", ShownText(tensor), "\" is in ", ShownJson(file),
                       ", not a .safetensors file of this directory"));
    }
    files[tensor] = name;
  }
  return files;
}

bool IsPackedName(absl::string_view name) {
  return absl::EndsWith(name, ".qweight") || absl::EndsWith(name, ".qzeros") ||
         absl::EndsWith(name, ".g_idx");
}

}  // namespace

Checkpoint::Checkpoint() = default;
Checkpoint::~Checkpoint() = default;

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& dir,
                                                             LoadFormat format) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(dir, ignored)) {
    return absl::NotFoundError(absl::StrCat(dir, ": no such model directory"));
  }
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->dir_ = dir;
  checkpoint->format_ = format;
  const std::string config_path = Join(dir, "config.json");
  QS_ASSIGN_OR_RETURN(const Json config, ReadJsonFile(config_path, kMaxConfigBytes));
  QS_ASSIGN_OR_RETURN(checkpoint->config_, ParseModelConfig(config, config_path));
  QS_RETURN_IF_ERROR(checkpoint->ReadQuantizationFile(config, config_path));
  QS_ASSIGN_OR_RETURN(checkpoint->defaults_, ReadGenerationDefaults(dir, checkpoint->config_));
  if (format == LoadFormat::kDummy) {
    checkpoint->description_ = absl::StrCat("dummy ", kDummyWeightsVersion, "\n", config.dump());
    return checkpoint;
  }
  if (Exists(Join(dir, kSingleFile))) {
    QS_RETURN_IF_ERROR(checkpoint->AddFile(std::string(kSingleFile)));
  } else if (Exists(Join(dir, kIndexFile))) {
    QS_RETURN_IF_ERROR(checkpoint->AddIndexedFiles());
  } else {
    return NoWeights(dir);
  }
  QS_RETURN_IF_ERROR(checkpoint->DecideTying(config_path));
  checkpoint->description_ = config.dump();
  if (checkpoint->config_.quantization.has_value()) {
    absl::StrAppend(&checkpoint->description_,
                    DescribeQuantization(*checkpoint->config_.quantization));
  }
  return checkpoint;
}

absl::Status Checkpoint::ReadQuantizationFile(const Json& config, const std::string& config_path) {
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    const std::string path = Join(dir_, name);
    if (!Exists(path)) continue;
    QS_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path, kMaxConfigBytes));
    const auto field = config.find("quantization_config");
    const bool in_config = field != config.end() && !field->is_null();
    QS_ASSIGN_OR_RETURN(config_.quantization,
                        ParseQuantization({in_config ? &*field : nullptr,
                                           absl::StrCat(config_path, ": quantization_config")},
                                          {&json, path}));
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

// The element type of a tensor that carries weights.
absl::StatusOr<DType> Checkpoint::TypeOf(const std::string& name, const std::string& dtype,
                                         const std::string& path) const {
  const auto at = [&] { return absl::StrCat(path, ": tensor \"", ShownText(name), "\""); };
  if (IsPackedName(name)) {
    if (!config_.quantization.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(at(), " belongs to a GPTQ or AWQ checkpoint, but neither config.json nor ",
                       "quantize_config.json says how it is quantised"));
    }
    if (dtype == "I32") return DType::kF32;
    return absl::InvalidArgumentError(absl::StrCat(at(), " is ", dtype, ", must be I32"));
  }
  if (dtype == "BF16") return DType::kBf16;
  if (dtype == "F16") return DType::kF16;
  if (dtype == "F32") return DType::kF32;
  if (absl::StartsWith(dtype, "F8")) {
    return absl::UnimplementedError(absl::StrCat(at(), " is FP8 (", dtype,
                                                 "), which is not supported; use the bf16 "
                                                 "checkpoint of the model"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(at(), " is ", dtype, "; supported are BF16, F16 and F32"));
}

absl::Status Checkpoint::AddFile(const std::string& name) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(Join(dir_, name)));
  QS_ASSIGN_OR_RETURN(const std::vector<SafetensorsEntry> entries,
                      ParseSafetensors(file->bytes(), file->path()));
  for (const SafetensorsEntry& entry : entries) {
    if (IsIgnoredTensor(entry.name)) continue;
    TensorRef tensor;
    tensor.name = entry.name;
    tensor.file = file->path();
    QS_ASSIGN_OR_RETURN(tensor.dtype, TypeOf(entry.name, entry.dtype, file->path()));
    tensor.is_int32 = IsPackedName(entry.name);
    tensor.shape = entry.shape;
    QS_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> data,
                        file->Slice(entry.offset, entry.bytes));
    tensor.data = data.data();
    tensor.bytes = entry.bytes;
    tensor.fd = file->fd();
    tensor.offset = entry.offset;
    tensor.file_index = files_.size();
    const auto [known, added] = by_name_.emplace(entry.name, tensors_.size());
    if (!added) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", ShownText(entry.name),
                                                     "\" is in both ", tensors_[known->second].file,
                                                     " and ", tensor.file));
    }
    tensors_.push_back(std::move(tensor));
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::AddIndexedFiles() {
  const std::string path = Join(dir_, kIndexFile);
  QS_ASSIGN_OR_RETURN(const auto index, ReadIndex(path));
  std::set<std::string> names;  // sorted, so that errors and hashes do not depend on the index
  for (const auto& [tensor, file] : index) names.insert(file);
  for (const std::string& name : names) QS_RETURN_IF_ERROR(AddFile(name));
  for (const TensorRef& tensor : tensors_) {
    const auto indexed = index.find(tensor.name);
    if (indexed == index.end() || Join(dir_, indexed->second) != tensor.file) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor \"", ShownText(tensor.name), "\" is in ", tensor.file,
          ", but the index says ", indexed == index.end() ? "nothing about it" : indexed->second));
    }
  }
  for (const auto& [tensor, file] : index) {
    if (Find(tensor) == nullptr && !IsIgnoredTensor(tensor)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor \"", ShownText(tensor), "\" is not in ", Join(dir_, file)));
    }
  }
  return absl::OkStatus();
}

// The files are right about tied embeddings where config.json is not: some copies of tied models
// say false. Qwen1 has no tied models, so there a missing head stays an error.
absl::Status Checkpoint::DecideTying(const std::string& config_path) {
  const bool has_head = Find("lm_head.weight") != nullptr || Find("lm_head.qweight") != nullptr;
  if (!has_head && config_.style == CheckpointStyle::kQwen1 && !config_.tied_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir_, ": tensor \"lm_head.weight\" is missing, and ", config_path,
                     " does not say that the embeddings are tied"));
  }
  config_.tied_embeddings = !has_head;
  return absl::OkStatus();
}

std::string Checkpoint::HashContent(std::stop_token stop) const {
  constexpr int64_t kPieceBytes = int64_t{64} << 20;  // between looks at `stop`
  Sha256 hash;
  hash.Update(description_);
  for (const TensorRef& tensor : tensors_) {
    hash.Update(absl::StrCat("\n", tensor.name, " ", static_cast<int>(tensor.dtype), " ",
                             ShapeString(tensor.shape), "\n"));
    LaneHash bytes;
    for (int64_t at = 0; at < tensor.bytes; at += kPieceBytes) {
      if (stop.stop_requested()) return "";
      bytes.Update(static_cast<const uint8_t*>(tensor.data) + at,
                   static_cast<size_t>(std::min(kPieceBytes, tensor.bytes - at)));
    }
    hash.Update(bytes.lanes().data(), sizeof(LaneHash::Lanes));
    ReleasePages(tensor);
  }
  return hash.HexDigest();
}

const TensorRef* Checkpoint::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

void Checkpoint::ReleasePages(const TensorRef& tensor) const {
  files_[tensor.file_index]->ReleasePages(tensor.data, tensor.bytes);
}

}  // namespace qwenserve
