#ifndef QWENSERVE_ENGINE_RUNTIME_ROW_SAMPLER_H_
#define QWENSERVE_ENGINE_RUNTIME_ROW_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/qwen.h"
#include "engine/schedule/step_plan.h"
#include "kernels/backend.h"

namespace qwenserve {

// One row of logits that a step must make something of.
struct LogitRow {
  SampleRow row;
  bool whole = false;           // something that only rank 0 knows edits the logits
  bool drawn = false;           // not scored: another step may take the token as its input
  int32_t sampled_by_row = -1;  // the plan's: where the last id of the row's context comes from
};

// In the order of the plan: of each sequence the scored rows, then the drawn one.
std::vector<LogitRow> LogitRowsOf(const StepPlan& plan);

// Turns rows of logits into tokens. When the vocabulary is cut over ranks each rank sends only the
// highest logits of its part and a few sums; where they prove the token, nobody ever sees the whole
// row. That is always so for greedy rows, draws from the whole vocabulary and scored tokens, for
// top-k up to the number sent, and for top-p while its set is within the highest ones. The logits
// of the other rows, and of those that penalties, bias or banned ids change, are gathered. Both
// ways give the same bits. Every rank takes the same decision from the same numbers.
//
// One thread. All ranks call it with the rows of the same plan.
class RowSampler {
 public:
  // `pairs`: highest logits that each rank sends per row; 0 = always gather.
  static absl::StatusOr<RowSampler> Create(int tp, int64_t max_logit_rows, int64_t pairs,
                                           Backend& backend);

  // The first rows of the last ProjectLogits. drawn: device, [rows.size()], the ids on rank 0.
  // tokens: host, [rows.size()], valid on rank 0 after Backend::Sync or Wait.
  absl::Status Sample(const ModelState& state, absl::Span<const LogitRow> rows, int32_t* drawn,
                      SampledToken* tokens);

  // Rows since the start, by the way that was taken; 0 at tp = 1.
  uint64_t rows_from_pairs() const { return rows_from_pairs_; }
  uint64_t rows_gathered() const { return rows_gathered_; }

 private:
  struct Reduced {
    bool sound = true;
    std::vector<TokenLogit> top;
    bool all_in_top = false;
    ShardWeights weights;
  };

  absl::Status ExchangeTops(const ModelState& state, absl::Span<const int64_t> rows,
                            std::vector<Reduced>* reduced);
  absl::Status ExchangeWeights(const ModelState& state, absl::Span<const LogitRow> rows,
                               absl::Span<const int64_t> wanted, std::vector<Reduced>* reduced);
  absl::Status Gather(const ModelState& state, absl::Span<const int64_t> rows);
  // Of rows that were not drawn by the device itself.
  static void StoreDrawn(const ModelState& state, absl::Span<const SampledToken> tokens,
                         int32_t* drawn);
  // Row r of the result: rank after rank, `width` floats of each.
  absl::Status Exchange(const ModelState& state, const std::vector<float>& mine, int64_t rows,
                        int64_t width, std::vector<float>* all);

  int tp_ = 1;
  int64_t pairs_ = 0;
  Buffer mine_;
  Buffer all_;
  uint64_t rows_from_pairs_ = 0;
  uint64_t rows_gathered_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_ROW_SAMPLER_H_
