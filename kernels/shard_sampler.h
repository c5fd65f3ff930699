#ifndef QWENSERVE_KERNELS_SHARD_SAMPLER_H_
#define QWENSERVE_KERNELS_SHARD_SAMPLER_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/span.h"
#include "kernels/sample_row.h"

namespace qwenserve {

// Sampling over a vocabulary that is cut over ranks, without one rank seeing all logits. A rank
// reduces its part of a row to its highest logits and, once the highest of all is known, to sums
// and the winner of its part of the race. All of that combines without an order (kernels/README.md,
// "Sample"), so the token and its log-probability have the bits of Backend::Sample over the whole
// row. Only for rows whose logits nothing edits (EditsLogits).
//
// An optional part of a backend: without it whole rows are gathered. One thread.

struct TokenLogit {
  float logit = 0;
  int32_t id = 0;
};

// Plain data from here on: it travels between ranks as bytes.
struct ShardWeights {
  int64_t raw_mass = 0;     // sum of exp(logit - max), in units of 2^-42
  int64_t mass = 0;         // of exp((logit - max) / temperature)
  double winner_ratio = 0;  // of the race for the row's token
  int32_t winner_id = -1;   // -1: no id of this part takes part
  float winner_logit = 0;
  // Of given_id; -infinity on ranks that don't have it.
  float given_logit = -std::numeric_limits<float>::infinity();
  int32_t unused = 0;
};

// What all parts of one row say together.
struct ShardedRow {
  absl::Span<const TokenLogit> top;  // the highest of the vocabulary, in order, no gap
  bool all_in_top = false;           // there are no more finite logits than those
  ShardWeights weights;              // sums over the parts, and the best winner
};

// The parts' tops as one: complete down to its end. `count`: what each part was asked for. *all:
// nobody has a further finite logit.
std::vector<TokenLogit> MergeTops(absl::Span<const std::vector<TokenLogit>> parts, int64_t count,
                                  bool* all);
void AddPart(const ShardWeights& part, ShardWeights* sum);

class ShardSampler {
 public:
  virtual ~ShardSampler() = default;

  // The up to `count` highest of logits[0..size), which belong to the ids from first_id, sorted;
  // false when there is a NaN or +infinity. logits: device.
  virtual bool Top(const float* logits, int64_t size, int64_t first_id, int64_t count,
                   std::vector<TokenLogit>* top) = 0;

  // `max`: the highest logit of the whole row.
  virtual ShardWeights Weigh(const SampleRow& row, const float* logits, int64_t size,
                             int64_t first_id, float max) = 0;

  // The token, or false when `all` doesn't prove which one it is. A row without a finite logit has
  // an empty `top` and gives id -1.
  virtual bool Draw(const SampleRow& row, int64_t vocab_size, const ShardedRow& all,
                    SampledToken* token) = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_SHARD_SAMPLER_H_
