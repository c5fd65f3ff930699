#include "engine/loader/weight_loader.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"
#include "engine/loader/dummy_weights.h"
#include "engine/loader/matrix_loader.h"
#include "engine/loader/planned_weights.h"
#include "engine/loader/rounded_matrix.h"
#include "engine/loader/weight_fields.h"
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

// Where the first of these tensors lies, in the order of files and of bytes in a file.
std::pair<size_t, int64_t> PlaceOf(absl::Span<const WeightSource> sources) {
  std::pair<size_t, int64_t> first = {SIZE_MAX, 0};
  for (const WeightSource& source : sources) {
    for (const TensorRef* tensor : source.tensors) {
      first = std::min(first, {tensor->file_index, tensor->offset});
    }
  }
  return first;
}

// The parts of each field, which follow each other.
std::vector<absl::Span<const WeightSource>> FieldsOf(absl::Span<const WeightSource> sources) {
  std::vector<absl::Span<const WeightSource>> fields;
  for (size_t begin = 0, end = 0; begin < sources.size(); begin = end) {
    const WeightPart& first = sources[begin].part;
    while (end < sources.size() && sources[end].part.field == first.field &&
           sources[end].part.layer == first.layer) {
      ++end;
    }
    fields.push_back(sources.subspan(begin, end - begin));
  }
  return fields;
}

// Rows that a matrix must have at least.
int64_t RowsOf(WeightField field, const ShardPlan& shard) {
  const bool vocabulary = field == WeightField::kEmbedding || field == WeightField::kHead;
  return vocabulary ? shard.max_vocab_rows : 0;
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
    QS_RETURN_IF_ERROR(CheckWeightChoice(checkpoint_.config(), choice_, checkpoint_.dir()));
    QS_ASSIGN_OR_RETURN(const std::vector<WeightSource> sources,
                        ResolveSources(checkpoint_, shard_));
    std::vector<absl::Span<const WeightSource>> fields = FieldsOf(sources);
    // The files are read from front to end.
    std::stable_sort(fields.begin(), fields.end(),
                     [](const auto& a, const auto& b) { return PlaceOf(a) < PlaceOf(b); });
    for (const auto field : fields) QS_RETURN_IF_ERROR(LoadField(field));
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
      QS_ASSIGN_OR_RETURN(VectorOf(weights_, part.field, part.layer),
                          LoadVector(sources, backend_));
    } else {
      QS_ASSIGN_OR_RETURN(MatrixOf(weights_, part.field, part.layer),
                          LoadMatrix(sources, choice_, RowsOf(part.field, shard_), backend_,
                                     TellRows(bytes, rows)));
      NoteFloats(sources, MatrixOf(weights_, part.field, part.layer));
    }
    for (const TensorRef* tensor : tensors) checkpoint_.ReleasePages(*tensor);
    done_ += bytes;
    Tell(done_);
    return absl::OkStatus();
  }

  void NoteFloats(absl::Span<const WeightSource> sources, const LinearWeight& matrix) {
    for (const WeightSource& source : sources) {
      if (source.matrix == nullptr || IsQuantized(matrix.format)) continue;
      weights_.notes.push_back(
          absl::StrCat("layer ", source.part.layer, ": ", source.part.tensor, " and ",
                       sources.size() - 1, " more parts of its matrix are not quantised alike; ",
                       "the matrix is held as ", WeightFormatName(matrix.format)));
      return;
    }
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
  if (checkpoint.is_dummy()) {
    return MakeDummyWeights(checkpoint.config(), shard, choice, backend, progress);
  }
  return Loader(checkpoint, shard, choice, backend, progress).Load();
}

absl::StatusOr<int64_t> LoadedBytes(const Checkpoint& checkpoint, const ShardPlan& shard,
                                    WeightChoice choice) {
  QS_RETURN_IF_ERROR(CheckWeightChoice(checkpoint.config(), choice, checkpoint.dir()));
  int64_t bytes = 0;
  if (checkpoint.is_dummy()) {
    QS_ASSIGN_OR_RETURN(const auto fields, PlanWeights(checkpoint.config(), shard, choice));
    for (const PlannedField& field : fields) bytes += PlannedBytes(field, DeviceKind::kCpu);
    return bytes;
  }
  QS_ASSIGN_OR_RETURN(const std::vector<WeightSource> sources, ResolveSources(checkpoint, shard));
  for (const auto field : FieldsOf(sources)) {
    const WeightField kind = field.front().part.field;
    if (!IsVector(kind)) {
      bytes += LoadedMatrixBytes(field, choice, RowsOf(kind, shard));
      continue;
    }
    for (const WeightSource& source : field) {
      bytes += source.part.rows.size() * static_cast<int64_t>(sizeof(float));
    }
  }
  return bytes;
}

}  // namespace qwenserve
