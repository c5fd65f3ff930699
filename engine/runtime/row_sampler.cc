#include "engine/runtime/row_sampler.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/sample/sampler.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// A message about one row: the number of logits, -1 when there is a NaN or +infinity, then logits
// and ids in turn. Everything travels as the bits of floats, which a gather only moves.
int64_t TopWidth(int64_t pairs) { return 1 + 2 * pairs; }
constexpr int64_t kWeightsWidth = sizeof(ShardWeights) / sizeof(float);
static_assert(sizeof(ShardWeights) % sizeof(float) == 0);
static_assert(sizeof(TokenLogit) == 2 * sizeof(float));

// Whether the highest logits alone do not tell the token.
bool NeedsWeights(const SampleRow& row, int64_t vocab_size) {
  if (row.num_logprobs >= 0) return true;
  if (row.temperature < kGreedyBelow) return false;
  return row.top_k <= 0 || row.top_k >= vocab_size;
}

}  // namespace

std::vector<LogitRow> LogitRowsOf(const StepPlan& plan) {
  std::vector<LogitRow> rows;
  for (const PlanSequence& part : plan.sequences) {
    for (int32_t i = 0; i < part.num_scored; ++i) {
      const size_t next = static_cast<size_t>(part.first_scored) + i + 1;
      const int32_t id = next < part.ids.size() ? part.ids[next] : part.next_id;
      rows.push_back({.row = MakeScoreRow(id, part.score_top)});
    }
    if (part.wants_logits) {
      rows.push_back({.row = part.sample,
                      .whole = part.whole_row || EditsLogits(part.sample),
                      .drawn = true,
                      .sampled_by_row = part.sampled_by_row});
    }
  }
  return rows;
}

absl::StatusOr<RowSampler> RowSampler::Create(int tp, int64_t max_logit_rows, int64_t pairs,
                                              Backend& backend) {
  RowSampler sampler;
  sampler.tp_ = tp;
  sampler.pairs_ = tp > 1 && backend.shard_sampler() != nullptr ? pairs : 0;
  if (sampler.pairs_ == 0) return sampler;
  const size_t bytes = static_cast<size_t>(max_logit_rows) * sizeof(float) *
                       std::max(TopWidth(pairs), kWeightsWidth);
  QS_ASSIGN_OR_RETURN(sampler.mine_, backend.Allocate(bytes));
  QS_ASSIGN_OR_RETURN(sampler.all_, backend.Allocate(bytes * static_cast<size_t>(tp)));
  return sampler;
}

absl::Status RowSampler::Exchange(const ModelState& state, const std::vector<float>& mine,
                                  int64_t rows, int64_t width, std::vector<float>* all) {
  const size_t bytes = mine.size() * sizeof(float);
  QS_CHECK(bytes <= mine_.bytes());
  state.backend->CopyToDevice(mine.data(), bytes, mine_.data());
  QS_RETURN_IF_ERROR(
      state.communicator->AllGather(mine_.as<float>(), rows, width, all_.as<float>()));
  all->resize(mine.size() * static_cast<size_t>(tp_));
  state.backend->CopyToHost(all_.data(), bytes * static_cast<size_t>(tp_), all->data());
  return absl::OkStatus();
}

absl::Status RowSampler::ExchangeTops(const ModelState& state, absl::Span<const int64_t> rows,
                                      std::vector<Reduced>* reduced) {
  const int64_t width = TopWidth(pairs_), count = static_cast<int64_t>(rows.size());
  const float* logits = state.activations->logits.as<float>();
  std::vector<float> mine(static_cast<size_t>(count * width)), all;
  std::vector<TokenLogit> top;
  for (int64_t i = 0; i < count; ++i) {
    float* message = mine.data() + i * width;
    const bool sound = state.backend->shard_sampler()->Top(
        logits + rows[i] * state.shard->max_vocab_rows, state.shard->vocab.size(),
        state.shard->vocab.begin, pairs_, &top);
    message[0] = sound ? static_cast<float>(top.size()) : -1.0f;
    if (!top.empty()) std::memcpy(message + 1, top.data(), top.size() * sizeof(TokenLogit));
  }
  QS_RETURN_IF_ERROR(Exchange(state, mine, count, width, &all));
  for (int64_t i = 0; i < count; ++i) {
    Reduced& row = (*reduced)[rows[i]];
    std::vector<std::vector<TokenLogit>> parts(tp_);
    for (int rank = 0; rank < tp_; ++rank) {
      const float* message = all.data() + (i * tp_ + rank) * width;
      row.sound &= message[0] >= 0;
      if (message[0] <= 0) continue;
      parts[rank].resize(std::min<size_t>(static_cast<size_t>(message[0]), pairs_));
      std::memcpy(static_cast<void*>(parts[rank].data()), message + 1,
                  parts[rank].size() * sizeof(TokenLogit));
    }
    if (row.sound) row.top = MergeTops(parts, pairs_, &row.all_in_top);
  }
  return absl::OkStatus();
}

absl::Status RowSampler::ExchangeWeights(const ModelState& state, absl::Span<const LogitRow> rows,
                                         absl::Span<const int64_t> wanted,
                                         std::vector<Reduced>* reduced) {
  const int64_t count = static_cast<int64_t>(wanted.size());
  const float* logits = state.activations->logits.as<float>();
  std::vector<float> mine(static_cast<size_t>(count * kWeightsWidth)), all;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = wanted[i];
    const ShardWeights weights = state.backend->shard_sampler()->Weigh(
        rows[r].row, logits + r * state.shard->max_vocab_rows, state.shard->vocab.size(),
        state.shard->vocab.begin, (*reduced)[r].top.front().logit);
    std::memcpy(mine.data() + i * kWeightsWidth, &weights, sizeof(weights));
  }
  QS_RETURN_IF_ERROR(Exchange(state, mine, count, kWeightsWidth, &all));
  for (int64_t i = 0; i < count * tp_; ++i) {
    ShardWeights weights;
    std::memcpy(static_cast<void*>(&weights), all.data() + i * kWeightsWidth, sizeof(weights));
    AddPart(weights, &(*reduced)[wanted[i / tp_]].weights);
  }
  return absl::OkStatus();
}

absl::Status RowSampler::Gather(const ModelState& state, absl::Span<const int64_t> rows) {
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
    QS_RETURN_IF_ERROR(GatherLogits(state, rows[begin], static_cast<int64_t>(end - begin),
                                    static_cast<int64_t>(begin)));
    begin = end;
  }
  return absl::OkStatus();
}

void RowSampler::StoreDrawn(const ModelState& state, absl::Span<const SampledToken> tokens,
                            int32_t* drawn) {
  std::vector<int32_t> ids;
  for (const SampledToken& token : tokens) ids.push_back(token.id);
  state.backend->CopyToDevice(ids.data(), ids.size() * sizeof(int32_t), drawn);
}

absl::Status RowSampler::Sample(const ModelState& state, absl::Span<const LogitRow> rows,
                                int32_t* drawn, SampledToken* tokens) {
  const int64_t vocab_size = state.config->vocab_size, count = static_cast<int64_t>(rows.size());
  std::vector<int64_t> whole, reduce, weigh;
  for (int64_t r = 0; r < count; ++r) {
    const SampleRow& row = rows[r].row;
    const bool beyond = row.top_k > pairs_ && row.top_k < vocab_size && row.given_id < 0 &&
                        row.temperature >= kGreedyBelow;
    const bool hopeless = rows[r].whole || beyond || row.num_logprobs > pairs_ || pairs_ == 0;
    (hopeless ? whole : reduce).push_back(r);
  }
  if (!reduce.empty()) {
    std::vector<Reduced> reduced(rows.size());
    QS_RETURN_IF_ERROR(ExchangeTops(state, reduce, &reduced));
    for (int64_t r : reduce) {
      if (!reduced[r].top.empty() && NeedsWeights(rows[r].row, vocab_size)) weigh.push_back(r);
    }
    if (!weigh.empty()) QS_RETURN_IF_ERROR(ExchangeWeights(state, rows, weigh, &reduced));
    for (int64_t r : reduce) {
      const ShardedRow all = {reduced[r].top, reduced[r].all_in_top, reduced[r].weights};
      const bool proved =
          state.backend->shard_sampler()->Draw(rows[r].row, vocab_size, all, &tokens[r]);
      if (!proved) whole.push_back(r);
    }
    std::sort(whole.begin(), whole.end());
  }
  if (tp_ > 1) {
    rows_gathered_ += whole.size();
    rows_from_pairs_ += rows.size() - whole.size();
  }
  if (whole.empty()) {
    StoreDrawn(state, absl::MakeConstSpan(tokens, rows.size()), drawn);
    return absl::OkStatus();
  }
  QS_RETURN_IF_ERROR(Gather(state, whole));
  if (state.shard->rank != 0) return absl::OkStatus();
  std::vector<SampleRow> sampled;
  for (int64_t r : whole) sampled.push_back(rows[r].row);
  const LogitsView logits = LogitsOf(state);
  if (whole.size() == rows.size()) {
    state.backend->Sample(logits.data, logits.stride, vocab_size, sampled, drawn, tokens);
    return absl::OkStatus();
  }
  std::vector<SampledToken> results(whole.size());
  state.backend->Sample(logits.data, logits.stride, vocab_size, sampled, nullptr, results.data());
  QS_RETURN_IF_ERROR(state.backend->Sync());
  for (size_t i = 0; i < whole.size(); ++i) tokens[whole[i]] = std::move(results[i]);
  StoreDrawn(state, absl::MakeConstSpan(tokens, rows.size()), drawn);
  return absl::OkStatus();
}

}  // namespace qwenserve
