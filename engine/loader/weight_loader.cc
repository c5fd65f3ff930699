#include "engine/loader/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/loader/safetensors.h"
#include "engine/model/weight_map.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// A part of the weight map and the tensor of the checkpoint that it takes from.
struct Source {
  WeightPart part;
  const TensorRef* tensor = nullptr;

  int64_t row_stride() const { return IsVector(part.field) ? 1 : part.shape[1]; }
  const uint8_t* data() const {
    const int64_t first = part.rows.begin * row_stride() + part.columns.begin;
    return static_cast<const uint8_t*>(tensor->data) +
           first * static_cast<int64_t>(DTypeBytes(tensor->dtype));
  }
};

std::string At(const TensorRef& tensor) {
  return absl::StrCat(tensor.file, ": tensor \"", ShownText(tensor.name), "\"");
}

// Finds and checks everything before anything is packed: a wrong checkpoint fails at once.
absl::StatusOr<std::vector<Source>> ResolveSources(const Checkpoint& checkpoint,
                                                   const ShardPlan& shard) {
  std::vector<Source> sources;
  absl::flat_hash_set<const TensorRef*> used;
  for (WeightPart& part : WeightParts(checkpoint.config(), shard)) {
    const TensorRef* tensor = checkpoint.Find(part.tensor);
    if (tensor == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint.dir(), ": tensor \"", part.tensor,
                                                     "\" of shape ", ShapeString(part.shape),
                                                     " is missing"));
    }
    if (tensor->shape != part.shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(At(*tensor), " has shape ", ShapeString(tensor->shape),
                       ", but config.json asks for ", ShapeString(part.shape)));
    }
    used.insert(tensor);
    sources.push_back({std::move(part), tensor});
  }
  for (const TensorRef& tensor : checkpoint.tensors()) {
    if (!used.contains(&tensor)) {
      return absl::InvalidArgumentError(absl::StrCat(
          At(tensor), " of shape ", ShapeString(tensor.shape), " does not belong to ",
          checkpoint.config().architecture, " with ", checkpoint.config().num_layers, " layers"));
    }
  }
  return sources;
}

float ElementAt(const uint8_t* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * 2, 2);
  return dtype == DType::kBf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

absl::StatusOr<Buffer> LoadVector(absl::Span<const Source> sources, Backend& backend) {
  std::vector<float> values;
  for (const Source& source : sources) {
    for (int64_t i = 0; i < source.part.rows.size(); ++i) {
      values.push_back(ElementAt(source.data(), source.tensor->dtype, i));
    }
  }
  QS_ASSIGN_OR_RETURN(Buffer buffer, backend.Allocate(values.size() * sizeof(float)));
  backend.CopyToDevice(values.data(), values.size() * sizeof(float), buffer.data());
  return buffer;
}

// `padded_rows`: how many rows the weight is to have; missing ones, fewer than ranks, are zero.
absl::StatusOr<LinearWeight> LoadMatrix(absl::Span<const Source> sources, int64_t padded_rows,
                                        Backend& backend) {
  const int64_t in_features = sources.front().part.columns.size();
  const DType dtype = sources.front().tensor->dtype;
  std::vector<RowBlock> blocks;
  int64_t rows = 0;
  for (const Source& source : sources) {
    if (source.tensor->dtype != dtype) {
      return absl::InvalidArgumentError(absl::StrCat(
          At(*source.tensor), " and \"", sources.front().tensor->name,
          "\" have different dtypes, but are one matrix of the model; save both in one dtype"));
    }
    blocks.push_back({source.data(), dtype, source.part.rows.size(), source.row_stride()});
    rows += source.part.rows.size();
  }
  const int64_t missing = std::max<int64_t>(padded_rows - rows, 0);
  const std::vector<uint8_t> zeros(static_cast<size_t>(missing * in_features) * DTypeBytes(dtype));
  if (missing > 0) blocks.push_back({zeros.data(), dtype, missing, in_features});
  return backend.PackLinear(blocks, in_features);
}

Buffer& VectorOf(ModelWeights& weights, const WeightPart& part) {
  if (part.field == WeightField::kFinalNorm) return weights.final_norm;
  LayerWeights& layer = weights.layers[static_cast<size_t>(part.layer)];
  switch (part.field) {
    case WeightField::kInputNorm:
      return layer.input_norm;
    case WeightField::kQkvBias:
      return layer.qkv_bias;
    case WeightField::kQNorm:
      return layer.q_norm;
    case WeightField::kKNorm:
      return layer.k_norm;
    default:
      QS_CHECK(part.field == WeightField::kPostAttnNorm);
      return layer.post_attn_norm;
  }
}

LinearWeight& MatrixOf(ModelWeights& weights, const WeightPart& part) {
  if (part.field == WeightField::kEmbedding) return weights.embedding;
  if (part.field == WeightField::kHead) return weights.head;
  LayerWeights& layer = weights.layers[static_cast<size_t>(part.layer)];
  switch (part.field) {
    case WeightField::kQkv:
      return layer.qkv;
    case WeightField::kAttnOut:
      return layer.attn_out;
    case WeightField::kGateUp:
      return layer.gate_up;
    default:
      QS_CHECK(part.field == WeightField::kDown);
      return layer.down;
  }
}

absl::Status LoadField(absl::Span<const Source> sources, const ShardPlan& shard, Backend& backend,
                       ModelWeights& weights) {
  const WeightPart& part = sources.front().part;
  if (IsVector(part.field)) {
    QS_ASSIGN_OR_RETURN(VectorOf(weights, part), LoadVector(sources, backend));
    return absl::OkStatus();
  }
  const bool by_vocab = part.field == WeightField::kEmbedding || part.field == WeightField::kHead;
  QS_ASSIGN_OR_RETURN(MatrixOf(weights, part),
                      LoadMatrix(sources, by_vocab ? shard.max_vocab_rows : 0, backend));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, const ShardPlan& shard,
                                         WeightChoice choice, Backend& backend,
                                         const LoadProgress& progress) {
  if (choice != WeightChoice::kAuto) {
    return absl::UnimplementedError(
        absl::StrCat("weights \"", WeightChoiceName(choice), "\": only auto is built yet"));
  }
  QS_ASSIGN_OR_RETURN(const std::vector<Source> sources, ResolveSources(checkpoint, shard));
  int64_t total = 0;
  for (const TensorRef& tensor : checkpoint.tensors()) total += tensor.bytes;
  ModelWeights weights;
  weights.layers.resize(static_cast<size_t>(checkpoint.config().num_layers));
  int64_t done = 0;
  for (size_t begin = 0; begin < sources.size();) {
    size_t end = begin + 1;
    const auto same_field = [&](const Source& other) {
      return other.part.field == sources[begin].part.field &&
             other.part.layer == sources[begin].part.layer;
    };
    while (end < sources.size() && same_field(sources[end])) ++end;
    const auto field = absl::MakeConstSpan(sources).subspan(begin, end - begin);
    QS_RETURN_IF_ERROR(LoadField(field, shard, backend, weights));
    const TensorRef* last = nullptr;  // a fused tensor feeds several parts of one field
    for (const Source& source : field) {
      if (source.tensor == last) continue;
      last = source.tensor;
      checkpoint.ReleasePages(*last);
      done += last->bytes;
    }
    if (progress) progress(done, total);
    begin = end;
  }
  return weights;
}

}  // namespace qwenserve
