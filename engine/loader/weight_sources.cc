#include "engine/loader/weight_sources.h"

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/loader/quantized_module.h"
#include "engine/loader/safetensors.h"
#include "engine/loader/tensor_errors.h"

namespace qwenserve {
namespace {

class Resolver {
 public:
  Resolver(const Checkpoint& checkpoint, std::vector<WeightPart> parts)
      : checkpoint_(checkpoint), parts_(std::move(parts)) {
    for (const WeightPart& part : parts_) expected_.insert(part.tensor);
  }

  absl::StatusOr<std::vector<WeightSource>> Resolve() {
    std::vector<WeightSource> sources;
    for (WeightPart& part : parts_) {
      QS_ASSIGN_OR_RETURN(WeightSource source, Find(part));
      used_.insert(source.tensors.begin(), source.tensors.end());
      source.part = std::move(part);
      sources.push_back(std::move(source));
    }
    for (const TensorRef& tensor : checkpoint_.tensors()) {
      if (used_.contains(&tensor)) continue;
      return TensorError(tensor, "of shape ", ShapeString(tensor.shape), " does not belong to ",
                         checkpoint_.config().architecture, " with ",
                         checkpoint_.config().num_layers, " layers");
    }
    return sources;
  }

 private:
  absl::StatusOr<WeightSource> Find(const WeightPart& part) {
    WeightSource source;
    source.tensor = checkpoint_.Find(part.tensor);
    if (source.tensor == nullptr) return FindModule(part);
    if (source.tensor->shape != part.shape) {
      return TensorError(*source.tensor, "has shape ", ShapeString(source.tensor->shape),
                         ", but config.json asks for ", ShapeString(part.shape));
    }
    source.tensors = {source.tensor};
    return source;
  }

  absl::StatusOr<WeightSource> FindModule(const WeightPart& part) {
    const std::string name(absl::StripSuffix(part.tensor, ".weight"));
    if (IsVector(part.field) || checkpoint_.Find(name + ".qweight") == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint_.dir(), ": tensor \"", part.tensor,
                                                     "\" of shape ", ShapeString(part.shape),
                                                     " is missing"));
    }
    auto module = modules_.find(name);  // a fused one is asked for by several parts
    if (module == modules_.end()) {
      QS_ASSIGN_OR_RETURN(QuantizedModule opened,
                          OpenQuantizedModule(checkpoint_, name, part.shape[0], part.shape[1],
                                              expected_.contains(name + ".bias")));
      module = modules_.emplace(name, std::move(opened)).first;
    }
    WeightSource source;
    source.matrix = module->second.matrix;
    source.tensors = module->second.tensors;
    return source;
  }

  const Checkpoint& checkpoint_;
  std::vector<WeightPart> parts_;
  absl::flat_hash_set<std::string> expected_;
  absl::flat_hash_map<std::string, QuantizedModule> modules_;
  absl::flat_hash_set<const TensorRef*> used_;
};

}  // namespace

absl::StatusOr<std::vector<WeightSource>> ResolveSources(const Checkpoint& checkpoint,
                                                         const ShardPlan& shard) {
  return Resolver(checkpoint, WeightParts(checkpoint.config(), shard)).Resolve();
}

}  // namespace qwenserve
