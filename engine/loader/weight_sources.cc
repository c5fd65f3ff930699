#include "engine/loader/weight_sources.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/loader/safetensors.h"

namespace qwenserve {

std::string TensorPlace(const TensorRef& tensor) {
  return absl::StrCat(tensor.file, ": tensor \"", ShownText(tensor.name), "\"");
}

absl::StatusOr<std::vector<WeightSource>> ResolveSources(const Checkpoint& checkpoint,
                                                         const ShardPlan& shard) {
  std::vector<WeightSource> sources;
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
          absl::StrCat(TensorPlace(*tensor), " has shape ", ShapeString(tensor->shape),
                       ", but config.json asks for ", ShapeString(part.shape)));
    }
    used.insert(tensor);
    sources.push_back({std::move(part), tensor, nullptr, {tensor}});
  }
  for (const TensorRef& tensor : checkpoint.tensors()) {
    if (!used.contains(&tensor)) {
      return absl::InvalidArgumentError(absl::StrCat(
          TensorPlace(tensor), " of shape ", ShapeString(tensor.shape), " does not belong to ",
          checkpoint.config().architecture, " with ", checkpoint.config().num_layers, " layers"));
    }
  }
  return sources;
}

}  // namespace qwenserve
