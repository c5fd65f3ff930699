#include "kernels/cpu/sample/shard_sampler.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/sample/sampling.h"

namespace qwenserve {

bool CpuShardSampler::Top(const float* logits, int64_t size, int64_t first_id, int64_t count,
                          std::vector<TokenLogit>* top) {
  top->clear();
  RowScan scan(kernels_, run_, logits, size, first_id, &scratch_);
  if (!scan.FindMaxima()) return scan.sound();
  for (const Candidate& c : scan.Top(count)) top->push_back({c.logit, c.id});
  return true;
}

ShardWeights CpuShardSampler::Weigh(const SampleRow& row, const float* logits, int64_t size,
                                    int64_t first_id, float max) {
  QS_CHECK(!EditsLogits(row));
  ShardWeights weights;
  RowScan scan(kernels_, run_, logits, size, first_id, &scratch_);
  if (row.num_logprobs >= 0) weights.raw_mass = scan.Weigh(max, 1.0f);
  const int64_t given = row.given_id - first_id;
  const bool here = row.given_id >= 0 && given >= 0 && given < size;
  if (here) weights.given_logit = logits[given];
  if (row.given_id >= 0 || row.temperature < kGreedyBelow) return weights;
  weights.mass = scan.Weigh(max, 1.0f / row.temperature);
  // A cut makes the race one among `top`, which Draw holds.
  if (row.top_k > 0 || row.top_p < 1.0f) return weights;
  const Race race = scan.RunRace(NoiseKey(row), row.min_p);
  if (race.id() < 0) return weights;
  weights.winner_id = race.id();
  weights.winner_ratio = race.ratio();
  weights.winner_logit = logits[race.id() - first_id];
  return weights;
}

bool CpuShardSampler::DrawId(const SampleRow& row, int64_t vocab_size, const ShardedRow& all,
                             TokenLogit* drawn) {
  if (row.given_id >= 0) {
    *drawn = {all.weights.given_logit, row.given_id};
    return true;
  }
  if (row.temperature < kGreedyBelow) {
    *drawn = all.top.front();
    return true;
  }
  const bool cut = row.top_k > 0 && row.top_k < vocab_size;
  if (!cut && row.top_p >= 1.0f) {
    *drawn = {all.weights.winner_logit, all.weights.winner_id};
    return drawn->id >= 0;
  }
  std::vector<Candidate> top;
  for (const TokenLogit& t : all.top) top.push_back({t.logit, t.id});
  if (cut) {
    if (static_cast<int64_t>(top.size()) < row.top_k && !all.all_in_top) return false;
    top.resize(std::min<size_t>(top.size(), row.top_k));
  }
  const int32_t id = DrawFromTop(kernels_, row, top, cut ? -1 : all.weights.mass);
  const auto it =
      std::find_if(top.begin(), top.end(), [id](const Candidate& c) { return c.id == id; });
  if (it == top.end()) return false;
  *drawn = {it->logit, id};
  return true;
}

bool CpuShardSampler::Draw(const SampleRow& row, int64_t vocab_size, const ShardedRow& all,
                           SampledToken* token) {
  QS_CHECK(!EditsLogits(row));
  *token = SampledToken();
  if (all.top.empty()) return true;
  TokenLogit drawn;
  if (static_cast<int64_t>(all.top.size()) < row.num_logprobs && !all.all_in_top) return false;
  if (!DrawId(row, vocab_size, all, &drawn)) return false;
  token->id = drawn.id;
  if (row.num_logprobs < 0) return true;
  const float max = all.top.front().logit;
  const int64_t mass = all.weights.raw_mass;
  token->logprob = LogprobOf(drawn.logit, max, mass);
  for (const TokenLogit& t : all.top.first(std::min<size_t>(all.top.size(), row.num_logprobs))) {
    token->top.push_back({t.id, LogprobOf(t.logit, max, mass)});
  }
  return true;
}

}  // namespace qwenserve
