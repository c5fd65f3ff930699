#include "engine/schedule/step_plan.h"

#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/attention_batch.h"

namespace qwenserve {
namespace {

constexpr uint32_t kFormat = 0x32737071;  // changes with the layout below

template <typename T>
void Put(T value, std::string* out) {
  static_assert(std::is_trivially_copyable_v<T>);
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutIds(const std::vector<int32_t>& ids, std::string* out) {
  Put(static_cast<uint32_t>(ids.size()), out);
  out->append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t));
}

// Takes values off the front of the bytes; every length is checked against what is there before
// memory is taken for it.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes), total_(bytes.size()) {}

  template <typename T>
  absl::Status Get(T* value) {
    if (bytes_.size() < sizeof(T)) return Short(sizeof(T));
    std::memcpy(value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return absl::OkStatus();
  }

  absl::Status GetIds(std::vector<int32_t>* ids) {
    uint32_t count = 0;
    QS_RETURN_IF_ERROR(Get(&count));
    if (bytes_.size() / sizeof(int32_t) < count) return Short(size_t{count} * sizeof(int32_t));
    ids->resize(count);
    if (count > 0) std::memcpy(ids->data(), bytes_.data(), count * sizeof(int32_t));
    bytes_.remove_prefix(count * sizeof(int32_t));
    return absl::OkStatus();
  }

  size_t left() const { return bytes_.size(); }

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("step plan, byte ", total_ - bytes_.size(), " of ", total_, ": ", what));
  }

 private:
  absl::Status Short(size_t wanted) const {
    return Error(absl::StrCat(wanted, " more bytes expected, ", bytes_.size(), " left"));
  }

  absl::string_view bytes_;
  size_t total_;
};

// The part of a row that has no pointers, and whether there is another one.
void PutSample(const PlanSequence& part, std::string* out) {
  const SampleRow& row = part.sample;
  Put(static_cast<uint8_t>(part.whole_row || EditsLogits(row)), out);
  Put(row.temperature, out);
  Put(row.top_k, out);
  Put(row.top_p, out);
  Put(row.min_p, out);
  Put(row.seed, out);
  Put(row.position, out);
  Put(row.sample_index, out);
  Put(row.num_logprobs, out);
}

absl::Status ReadSample(Reader& reader, PlanSequence* part) {
  SampleRow& row = part->sample;
  uint8_t whole_row = 0;
  QS_RETURN_IF_ERROR(reader.Get(&whole_row));
  QS_RETURN_IF_ERROR(reader.Get(&row.temperature));
  QS_RETURN_IF_ERROR(reader.Get(&row.top_k));
  QS_RETURN_IF_ERROR(reader.Get(&row.top_p));
  QS_RETURN_IF_ERROR(reader.Get(&row.min_p));
  QS_RETURN_IF_ERROR(reader.Get(&row.seed));
  QS_RETURN_IF_ERROR(reader.Get(&row.position));
  QS_RETURN_IF_ERROR(reader.Get(&row.sample_index));
  QS_RETURN_IF_ERROR(reader.Get(&row.num_logprobs));
  if (whole_row > 1) return reader.Error(absl::StrCat("whole_row is ", int{whole_row}));
  part->whole_row = whole_row != 0;
  if (row.top_k < 0 || row.num_logprobs < -1 || row.num_logprobs > kMaxTopLogprobs) {
    return reader.Error(
        absl::StrCat("top_k ", row.top_k, ", ", row.num_logprobs, " log-probabilities"));
  }
  return absl::OkStatus();
}

absl::Status ReadSequence(Reader& reader, PlanSequence* part) {
  uint8_t wants_logits = 0;
  QS_RETURN_IF_ERROR(reader.Get(&part->first_position));
  QS_RETURN_IF_ERROR(reader.Get(&part->prompt_tokens));
  QS_RETURN_IF_ERROR(reader.Get(&part->sampled_by_row));
  QS_RETURN_IF_ERROR(reader.Get(&wants_logits));
  QS_RETURN_IF_ERROR(reader.GetIds(&part->ids));
  QS_RETURN_IF_ERROR(reader.GetIds(&part->blocks));
  QS_RETURN_IF_ERROR(reader.Get(&part->first_scored));
  QS_RETURN_IF_ERROR(reader.Get(&part->num_scored));
  QS_RETURN_IF_ERROR(reader.Get(&part->score_top));
  QS_RETURN_IF_ERROR(reader.Get(&part->next_id));
  part->wants_logits = wants_logits != 0;
  if (part->wants_logits) QS_RETURN_IF_ERROR(ReadSample(reader, part));

  const int64_t rows = static_cast<int64_t>(part->ids.size());
  if (wants_logits > 1) return reader.Error(absl::StrCat("wants_logits is ", int{wants_logits}));
  if (rows == 0) return reader.Error("a sequence without rows");
  if (part->first_position < 0 ||
      part->first_position > std::numeric_limits<int32_t>::max() - rows) {
    return reader.Error(absl::StrCat("first position ", part->first_position));
  }
  if (part->prompt_tokens < 1) {
    return reader.Error(absl::StrCat(part->prompt_tokens, " prompt tokens"));
  }
  if (part->sampled_by_row < -1 || (part->sampled_by_row >= 0 && rows != 1)) {
    return reader.Error(
        absl::StrCat("input from row ", part->sampled_by_row, " for ", rows, " rows"));
  }
  const int64_t scorable = rows - (part->wants_logits ? 1 : 0);
  if (part->first_scored < 0 || part->num_scored < 0 ||
      int64_t{part->first_scored} + part->num_scored > scorable || part->score_top < 0 ||
      part->score_top > kMaxTopLogprobs) {
    return reader.Error(absl::StrCat("rows ", part->first_scored, " and ", part->num_scored,
                                     " more of ", scorable, " to be scored, with ", part->score_top,
                                     " alternatives"));
  }
  const int64_t positions = part->first_position + rows;
  const int64_t blocks = static_cast<int64_t>(part->blocks.size());
  if (blocks * kKvBlockSize < positions) {
    return reader.Error(absl::StrCat(blocks, " blocks for ", positions, " positions"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string SerializeStepPlan(const StepPlan& plan) {
  std::string out;
  Put(kFormat, &out);
  Put(plan.step, &out);
  Put(static_cast<uint8_t>(plan.shutdown), &out);
  Put(static_cast<uint32_t>(plan.sequences.size()), &out);
  for (const PlanSequence& part : plan.sequences) {
    Put(part.first_position, &out);
    Put(part.prompt_tokens, &out);
    Put(part.sampled_by_row, &out);
    Put(static_cast<uint8_t>(part.wants_logits), &out);
    PutIds(part.ids, &out);
    PutIds(part.blocks, &out);
    Put(part.first_scored, &out);
    Put(part.num_scored, &out);
    Put(part.score_top, &out);
    Put(part.next_id, &out);
    if (part.wants_logits) PutSample(part, &out);
  }
  return out;
}

absl::StatusOr<StepPlan> ParseStepPlan(absl::string_view bytes) {
  Reader reader(bytes);
  StepPlan plan;
  uint32_t format = 0;
  uint8_t shutdown = 0;
  uint32_t count = 0;
  QS_RETURN_IF_ERROR(reader.Get(&format));
  if (format != kFormat) return reader.Error("not a step plan of this version");
  QS_RETURN_IF_ERROR(reader.Get(&plan.step));
  QS_RETURN_IF_ERROR(reader.Get(&shutdown));
  if (shutdown > 1) return reader.Error(absl::StrCat("shutdown is ", int{shutdown}));
  plan.shutdown = shutdown != 0;
  QS_RETURN_IF_ERROR(reader.Get(&count));
  for (uint32_t i = 0; i < count; ++i) {
    PlanSequence part;
    QS_RETURN_IF_ERROR(ReadSequence(reader, &part));
    plan.sequences.push_back(std::move(part));
  }
  if (reader.left() > 0) return reader.Error(absl::StrCat(reader.left(), " bytes too many"));
  return plan;
}

}  // namespace qwenserve
