#include "engine/loader/weight_loader.h"

#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"
#include "engine/loader/matrix_loader.h"
#include "engine/loader/rounded_matrix.h"
#include "engine/loader/weight_sources.h"
#include "engine/model/weight_map.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

absl::StatusOr<Buffer> LoadVector(absl::Span<const WeightSource> sources, Backend& backend) {
  std::vector<float> values;
  for (const WeightSource& source : sources) {
    const size_t size = values.size();
    values.resize(size + static_cast<size_t>(source.part.rows.size()));
    WidenElements(*source.tensor, source.part.rows.begin, source.part.rows.size(),
                  values.data() + size);
  }
  QS_ASSIGN_OR_RETURN(Buffer buffer, backend.Allocate(values.size() * sizeof(float)));
  backend.CopyToDevice(values.data(), values.size() * sizeof(float), buffer.data());
  return buffer;
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

// Loads field after field and tells how far it is, in bytes of the checkpoint.
class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const ShardPlan& shard, WeightChoice choice,
         Backend& backend, const LoadProgress& progress)
      : checkpoint_(checkpoint),
        shard_(shard),
        choice_(choice),
        backend_(backend),
        progress_(progress) {
    for (const TensorRef& tensor : checkpoint.tensors()) total_ += tensor.bytes;
    weights_.layers.resize(static_cast<size_t>(checkpoint.config().num_layers));
  }

  absl::StatusOr<ModelWeights> Load() {
    QS_ASSIGN_OR_RETURN(const std::vector<WeightSource> sources,
                        ResolveSources(checkpoint_, shard_));
    for (size_t begin = 0; begin < sources.size();) {
      size_t end = begin + 1;
      const auto same_field = [&](const WeightSource& other) {
        return other.part.field == sources[begin].part.field &&
               other.part.layer == sources[begin].part.layer;
      };
      while (end < sources.size() && same_field(sources[end])) ++end;
      QS_RETURN_IF_ERROR(LoadField(absl::MakeConstSpan(sources).subspan(begin, end - begin)));
      begin = end;
    }
    return std::move(weights_);
  }

 private:
  absl::Status LoadField(absl::Span<const WeightSource> sources) {
    const WeightPart& part = sources.front().part;
    absl::flat_hash_set<const TensorRef*> tensors;  // a fused one feeds several parts
    for (const WeightSource& source : sources) {
      tensors.insert(source.tensors.begin(), source.tensors.end());
    }
    int64_t bytes = 0, rows = 0;
    for (const TensorRef* tensor : tensors) bytes += tensor->bytes;
    for (const WeightSource& source : sources) rows += source.part.rows.size();
    if (IsVector(part.field)) {
      QS_ASSIGN_OR_RETURN(VectorOf(weights_, part), LoadVector(sources, backend_));
    } else {
      const bool vocabulary =
          part.field == WeightField::kEmbedding || part.field == WeightField::kHead;
      QS_ASSIGN_OR_RETURN(MatrixOf(weights_, part),
                          LoadMatrix(sources, choice_, vocabulary ? shard_.max_vocab_rows : 0,
                                     backend_, TellRows(bytes, rows)));
    }
    for (const TensorRef* tensor : tensors) checkpoint_.ReleasePages(*tensor);
    done_ += bytes;
    Tell(done_);
    return absl::OkStatus();
  }

  // Counts the rows of one field that are read, by whatever thread, and tells their share of its
  // bytes from the loading thread.
  std::function<void(int64_t)> TellRows(int64_t bytes, int64_t rows) {
    rows_read_ = 0;
    return [this, bytes, rows, loading = std::this_thread::get_id()](int64_t count) {
      const int64_t read = rows_read_.fetch_add(count) + count;
      if (std::this_thread::get_id() != loading || read >= rows) return;
      const double share = static_cast<double>(read) / static_cast<double>(rows);
      Tell(done_ + static_cast<int64_t>(share * static_cast<double>(bytes)));
    };
  }

  void Tell(int64_t done) {
    if (!progress_ || done <= told_) return;
    told_ = done;
    progress_(done, total_);
  }

  const Checkpoint& checkpoint_;
  const ShardPlan& shard_;
  const WeightChoice choice_;
  Backend& backend_;
  const LoadProgress& progress_;
  ModelWeights weights_;
  int64_t total_ = 0;
  int64_t done_ = 0;
  int64_t told_ = 0;
  std::atomic<int64_t> rows_read_{0};
};

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, const ShardPlan& shard,
                                         WeightChoice choice, Backend& backend,
                                         const LoadProgress& progress) {
  return Loader(checkpoint, shard, choice, backend, progress).Load();
}

}  // namespace qwenserve
