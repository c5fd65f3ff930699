#ifndef QWENSERVE_ENGINE_QUANTIZE_LAYER_SOURCE_H_
#define QWENSERVE_ENGINE_QUANTIZE_LAYER_SOURCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loader/checkpoint.h"
#include "engine/model/weight_map.h"

namespace qwenserve {

// The tensors behind one field of the model (engine/model/weights.h), stacked along their rows.
struct FieldTensors {
  std::vector<const TensorRef*> tensors;
  int64_t rows = 0;     // of all together
  int64_t columns = 1;  // inputs; 1 for a vector
};

// A float checkpoint, field by field. Not owned: the checkpoint must outlive it. Immutable.
class LayerSource {
 public:
  // INVALID_ARGUMENT naming the tensor when one is missing or has another shape than config.json
  // asks for; FAILED_PRECONDITION when the checkpoint is already quantised.
  static absl::StatusOr<LayerSource> Create(const Checkpoint& checkpoint);

  // Null when the model has no such field (a bias, say). layer is -1 outside the layers.
  const FieldTensors* Find(int64_t layer, WeightField field) const;

  // All elements as float, [rows, columns]; empty when there is no such field. The pages read are
  // given back.
  std::vector<float> Read(int64_t layer, WeightField field) const;

  // Row `row` of a matrix of one tensor, such as the embedding, into out [columns].
  void ReadRow(int64_t layer, WeightField field, int64_t row, float* out) const;

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const ModelConfig& config() const { return checkpoint_->config(); }

 private:
  explicit LayerSource(const Checkpoint& checkpoint) : checkpoint_(&checkpoint) {}

  const Checkpoint* checkpoint_;
  std::map<std::pair<int64_t, WeightField>, FieldTensors> fields_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_LAYER_SOURCE_H_
