#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "tests/kernels/reference_backend.h"

namespace qwenserve {
namespace {

uint64_t Mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  x ^= x >> 31;
  return x;
}

// Exponential noise of one id, as kernels/README.md defines it.
double Noise(const SampleRow& row, int32_t id) {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  uint64_t state = Mix(row.seed + kStep);
  state = Mix(state + static_cast<uint64_t>(row.position) * kStep + 1);
  state = Mix(state + static_cast<uint64_t>(row.sample_index) * kStep + 2);
  const uint64_t bits = Mix(state + (static_cast<uint64_t>(id) + 1) * kStep) >> 12;
  return -std::log1p(-(static_cast<double>(bits) + 0.5) * std::ldexp(1.0, -52));
}

// Logits after bias, penalties, banned ids and mask, -infinity where not allowed. Empty when a NaN
// or +infinity is among them or nothing is finite.
std::vector<double> EffectiveLogits(const float* logits, int64_t vocab_size, const SampleRow& row) {
  std::vector<double> l(logits, logits + vocab_size);
  for (const LogitBias& bias : row.logit_bias) l[bias.id] += bias.bias;
  std::vector<int32_t> ids(row.context_ids.begin(), row.context_ids.end());
  if (row.last_id != nullptr && *row.last_id >= 0) ids.push_back(*row.last_id);
  const std::set<int32_t> context(ids.begin(), ids.end());
  for (int32_t id : context) {
    l[id] = l[id] > 0 ? l[id] / row.repetition_penalty : l[id] * row.repetition_penalty;
  }
  std::map<int32_t, int> generated;
  for (size_t i = row.num_prompt_ids; i < ids.size(); ++i) ++generated[ids[i]];
  for (const auto& [id, count] : generated) {
    l[id] -= row.presence_penalty + count * static_cast<double>(row.frequency_penalty);
  }
  for (int32_t id : row.banned_ids) l[id] = -INFINITY;
  bool any = false;
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (row.allowed_ids != nullptr && (row.allowed_ids[id / 32] >> (id % 32) & 1) == 0) {
      l[id] = -INFINITY;
    }
    if (std::isnan(l[id]) || l[id] == INFINITY) return {};
    any |= std::isfinite(l[id]);
  }
  if (!any) l.clear();
  return l;
}

// Of the softmax over the logits as they come; empty where they are not usable.
std::vector<double> Logprobs(const float* logits, int64_t vocab_size) {
  double max = -INFINITY, sum = 0;
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (std::isnan(logits[id]) || logits[id] == INFINITY) return {};
    max = std::max<double>(max, logits[id]);
  }
  if (max == -INFINITY) return {};
  for (int64_t id = 0; id < vocab_size; ++id) sum += std::exp(logits[id] - max);
  std::vector<double> logprobs;
  for (int64_t id = 0; id < vocab_size; ++id) logprobs.push_back(logits[id] - max - std::log(sum));
  return logprobs;
}

void AddLogprobs(const std::vector<double>& logprobs, int32_t num_top, SampledToken* token) {
  token->logprob = static_cast<float>(logprobs[token->id]);
  std::vector<int32_t> order;
  for (size_t id = 0; id < logprobs.size(); ++id) {
    if (std::isfinite(logprobs[id])) order.push_back(static_cast<int32_t>(id));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logprobs[a] > logprobs[b]; });
  order.resize(std::min<size_t>(order.size(), num_top));
  for (int32_t id : order) token->top.push_back({id, static_cast<float>(logprobs[id])});
}

}  // namespace

std::vector<KeptId> ReferenceDistribution(const float* logits, int64_t vocab_size,
                                          const SampleRow& row) {
  const std::vector<double> l = EffectiveLogits(logits, vocab_size, row);
  if (l.empty()) return {};
  std::vector<int32_t> order;
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (std::isfinite(l[id])) order.push_back(static_cast<int32_t>(id));
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return l[a] > l[b]; });
  if (row.temperature < kGreedyBelow) return {{order[0], 1.0}};
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < order.size()) order.resize(row.top_k);

  std::vector<KeptId> kept;
  double total = 0;
  for (int32_t id : order) {
    kept.push_back({id, std::exp((l[id] - l[order[0]]) / row.temperature)});
    total += kept.back().probability;
  }
  if (row.top_p < 1.0f) {
    double mass = 0;
    size_t count = 0;
    while (count < kept.size() && mass < row.top_p * total) mass += kept[count++].probability;
    kept.resize(std::max<size_t>(count, 1));
  }
  while (kept.back().probability < row.min_p) kept.pop_back();
  total = 0;
  for (const KeptId& k : kept) total += k.probability;
  for (KeptId& k : kept) k.probability /= total;
  return kept;
}

void ReferenceBackend::Sample(float* logits, int64_t stride, int64_t vocab_size,
                              absl::Span<const SampleRow> rows, int32_t* drawn,
                              SampledToken* tokens) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleRow& row = rows[i];
    const float* own = logits + i * stride;
    tokens[i] = SampledToken();
    if (drawn != nullptr) drawn[i] = -1;
    std::vector<double> logprobs;
    if (row.num_logprobs >= 0) {
      logprobs = Logprobs(own, vocab_size);
      if (logprobs.empty()) continue;
    }
    tokens[i].id = row.given_id;
    double best = -1;
    for (const KeptId& kept : ReferenceDistribution(own, vocab_size, row)) {
      if (row.given_id >= 0) break;
      const double ratio = kept.probability / Noise(row, kept.id);
      if (ratio > best || (ratio == best && kept.id < tokens[i].id)) {
        best = ratio;
        tokens[i].id = kept.id;
      }
    }
    if (drawn != nullptr) drawn[i] = tokens[i].id;
    if (tokens[i].id >= 0 && !logprobs.empty()) AddLogprobs(logprobs, row.num_logprobs, &tokens[i]);
  }
}

}  // namespace qwenserve
