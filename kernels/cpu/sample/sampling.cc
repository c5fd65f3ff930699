#include "kernels/cpu/sample/sampling.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// So many of the most probable ids are tried for top-p before the whole vocabulary is looked at.
constexpr int64_t kFirstNucleus = 256;

// From here on top-k's ids are marked rather than sorted.
constexpr int64_t kWideTopK = 4096;

// Changes logits as the row wants and remembers what they were.
class Edits {
 public:
  Edits(const SampleRow& row, int64_t vocab_size, float* logits)
      : row_(row), vocab_size_(vocab_size), logits_(logits), context_(row.context_ids) {
    if (row.last_id == nullptr || !ReadsContext(row)) return;
    whole_context_.assign(context_.begin(), context_.end());
    whole_context_.push_back(*row.last_id);
    context_ = whole_context_;
  }

  void Apply(std::vector<int32_t>* counts) {
    for (const LogitBias& bias : row_.logit_bias) {
      if (Exists(bias.id)) Set(bias.id, logits_[bias.id] + bias.bias);
    }
    counts->resize(std::max<size_t>(counts->size(), vocab_size_));
    if (row_.repetition_penalty != 1.0f) Repetition(*counts);
    if (row_.presence_penalty != 0.0f || row_.frequency_penalty != 0.0f) Additive(*counts);
    for (int32_t id : row_.banned_ids) {
      if (Exists(id)) Set(id, kMinusInfinity);
    }
    if (row_.allowed_ids == nullptr) return;
    for (int64_t id = 0; id < vocab_size_; ++id) {
      // A masked id is never the answer, so what it was is of no interest.
      if ((row_.allowed_ids[id / 32] >> (id % 32) & 1u) == 0) logits_[id] = kMinusInfinity;
    }
  }

  float Original(int32_t id) const {
    // The first change of an id has what was there before.
    for (const auto& [changed, logit] : originals_) {
      if (changed == id) return logit;
    }
    return logits_[id];
  }

 private:
  bool Exists(int32_t id) const { return id >= 0 && id < vocab_size_; }
  void Set(int32_t id, float logit) {
    if (row_.num_logprobs >= 0) originals_.emplace_back(id, logits_[id]);
    logits_[id] = logit;
  }

  void Repetition(std::vector<int32_t>& counts) {
    const float penalty = row_.repetition_penalty;
    for (int32_t id : context_) {
      if (!Exists(id) || counts[id]++ != 0) continue;
      Set(id, logits_[id] > 0 ? logits_[id] / penalty : logits_[id] * penalty);
    }
    for (int32_t id : context_) {
      if (Exists(id)) counts[id] = 0;
    }
  }

  void Additive(std::vector<int32_t>& counts) {
    const auto generated = context_.subspan(row_.num_prompt_ids);
    for (int32_t id : generated) {
      if (Exists(id)) ++counts[id];
    }
    for (int32_t id : generated) {
      if (!Exists(id) || counts[id] == 0) continue;
      const float count = static_cast<float>(counts[id]);
      Set(id, logits_[id] - (row_.presence_penalty + count * row_.frequency_penalty));
      counts[id] = 0;
    }
  }

  const SampleRow& row_;
  const int64_t vocab_size_;
  float* const logits_;
  absl::Span<const int32_t> context_;
  std::vector<int32_t> whole_context_;  // where the last id is elsewhere
  std::vector<std::pair<int32_t, float>> originals_;
};

int32_t Draw(const KernelTable& kernels, const SampleRow& row, int64_t vocab_size, RowScan& scan) {
  if (row.temperature < kGreedyBelow) return scan.ArgMax();
  const bool cut = row.top_k > 0 && row.top_k < vocab_size;
  if (cut && row.top_k < kWideTopK) return DrawFromTop(kernels, row, scan.Top(row.top_k), -1);
  const float inverse = 1.0f / row.temperature;
  int64_t total = scan.Weigh(scan.max(), inverse);
  if (cut) total = scan.CutTopK(row.top_k, inverse);
  if (row.top_p < 1.0f) {
    const int32_t id = DrawFromTop(kernels, row, scan.Top(kFirstNucleus), total);
    if (id >= 0) return id;
    scan.CutTopP(row.top_p, total, inverse);
  }
  return scan.RunRace(NoiseKey(row), row.min_p).id();
}

}  // namespace

int32_t DrawFromTop(const KernelTable& kernels, const SampleRow& row,
                    absl::Span<const Candidate> top, int64_t total) {
  std::vector<float> logits, p(top.size());
  for (const Candidate& c : top) logits.push_back(c.logit);
  const int64_t mass = kernels.weigh(logits.data(), static_cast<int64_t>(logits.size()),
                                     logits.front(), 1.0f / row.temperature, p.data());
  size_t kept = top.size();
  if (row.top_p < 1.0f) {
    bool reached = false;
    kept = PrefixReaching(p, 0, row.top_p, total < 0 ? mass : total, &reached);
    if (!reached) return -1;
  }
  Race race(NoiseKey(row));
  for (size_t i = 0; i < kept; ++i) {
    if (p[i] > 0 && p[i] >= row.min_p) race.Enter(top[i].id, p[i]);
  }
  return race.id();
}

SampledToken SampleOne(const KernelTable& kernels, RunChunks run, const SampleRow& row,
                       int64_t vocab_size, float* logits, SampleScratch* scratch) {
  QS_CHECK(row.given_id < vocab_size && (row.given_id < 0 || row.num_logprobs >= 0));
  SampledToken token;
  RowScan scan(kernels, run, logits, vocab_size, 0, scratch);
  float raw_max = 0;
  int64_t raw_mass = 0;
  if (row.num_logprobs >= 0) {
    if (!scan.FindMaxima()) return token;
    raw_max = scan.max();
    raw_mass = scan.Weigh(raw_max, 1.0f);
    for (const Candidate& c : scan.Top(row.num_logprobs)) {
      token.top.push_back({c.id, LogprobOf(c.logit, raw_max, raw_mass)});
    }
  }
  Edits edits(row, vocab_size, logits);
  const bool edited = EditsLogits(row);
  if (edited) edits.Apply(&scratch->counts);
  if ((edited || row.num_logprobs < 0) && !scan.FindMaxima()) return SampledToken();
  token.id = row.given_id >= 0 ? row.given_id : Draw(kernels, row, vocab_size, scan);
  if (row.num_logprobs >= 0) {
    token.logprob = LogprobOf(edits.Original(token.id), raw_max, raw_mass);
  }
  return token;
}

}  // namespace qwenserve
