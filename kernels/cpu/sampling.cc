#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace qwenserve {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct Candidate {
  float z = 0;
  int32_t id = 0;
};

// The order in which top-k and top-p take ids.
bool Before(const Candidate& a, const Candidate& b) { return a.z != b.z ? a.z > b.z : a.id < b.id; }

void ApplyPenalties(const SampleRow& row, int64_t vocab_size, float* logits,
                    std::vector<int32_t>& counts) {
  const bool repetition = row.repetition_penalty != 1.0f;
  const bool additive = row.presence_penalty != 0.0f || row.frequency_penalty != 0.0f;
  if (!repetition && !additive) return;
  counts.resize(vocab_size);
  const auto valid = [vocab_size](int32_t id) { return id >= 0 && id < vocab_size; };
  if (repetition) {
    for (int32_t id : row.context_ids) {
      if (!valid(id) || counts[id]++ != 0) continue;
      logits[id] = logits[id] > 0 ? logits[id] / row.repetition_penalty
                                  : logits[id] * row.repetition_penalty;
    }
    for (int32_t id : row.context_ids) {
      if (valid(id)) counts[id] = 0;
    }
  }
  if (!additive) return;
  const auto generated = row.context_ids.subspan(row.num_prompt_ids);
  for (int32_t id : generated) {
    if (valid(id)) ++counts[id];
  }
  for (int32_t id : generated) {
    if (!valid(id) || counts[id] == 0) continue;
    const float count = static_cast<float>(counts[id]);
    logits[id] = logits[id] - (row.presence_penalty + count * row.frequency_penalty);
    counts[id] = 0;
  }
}

void ApplyMask(const uint32_t* allowed, int64_t vocab_size, float* logits) {
  for (int64_t id = 0; id < vocab_size; ++id) {
    if ((allowed[id / 32] >> (id % 32) & 1u) == 0) logits[id] = kMinusInfinity;
  }
}

// Lowest id of the highest logit, or -1 when there is a NaN or +infinity or nothing finite.
int32_t ArgMax(const float* logits, int64_t vocab_size) {
  float max = kMinusInfinity;
  bool sound = true;
  for (int64_t id = 0; id < vocab_size; ++id) {
    max = logits[id] > max ? logits[id] : max;
    sound &= logits[id] < std::numeric_limits<float>::infinity();
  }
  if (!sound || max == kMinusInfinity) return -1;
  return static_cast<int32_t>(std::find(logits, logits + vocab_size, max) - logits);
}

// Buckets of a monotonic key: 0 for z = 0, higher for lower z, 16 per power of two.
constexpr int kBuckets = 1 << 12;
int Bucket(float z) { return static_cast<int>(std::bit_cast<uint32_t>(0.0f - z) >> 19); }

// The k first ids in the order of Before, sorted.
std::vector<Candidate> SelectTopK(const float* z, int64_t vocab_size, int64_t k) {
  std::vector<int64_t> sizes(kBuckets);
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (z[id] != kMinusInfinity) ++sizes[Bucket(z[id])];
  }
  int last = 0;
  for (int64_t seen = sizes[0]; seen < k && last + 1 < kBuckets; seen += sizes[last]) ++last;
  std::vector<Candidate> candidates;
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (z[id] != kMinusInfinity && Bucket(z[id]) <= last) {
      candidates.push_back({z[id], static_cast<int32_t>(id)});
    }
  }
  const auto size = std::min<int64_t>(k, static_cast<int64_t>(candidates.size()));
  std::nth_element(candidates.begin(), candidates.begin() + size - 1, candidates.end(), Before);
  candidates.resize(size);
  std::sort(candidates.begin(), candidates.end(), Before);
  return candidates;
}

// How many of the sorted candidates reach `target` mass, given the mass before them.
size_t PrefixReaching(const std::vector<Candidate>& sorted, const float* terms, double mass,
                      double target) {
  for (size_t i = 0; i < sorted.size(); ++i) {
    mass += terms[sorted[i].id];
    if (mass >= target) return i + 1;
  }
  return sorted.size();
}

// Top-p over the whole vocabulary: sets z to -infinity outside the set.
void CutTopP(float* z, int64_t vocab_size, const float* terms, float top_p) {
  std::vector<double> masses(kBuckets);
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (z[id] != kMinusInfinity) masses[Bucket(z[id])] += terms[id];
  }
  double total = 0;
  for (double mass : masses) total += mass;
  const double target = static_cast<double>(top_p) * total;
  int edge = 0;
  double before = 0;
  while (edge + 1 < kBuckets && before + masses[edge] < target) before += masses[edge++];
  std::vector<Candidate> candidates;
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (z[id] == kMinusInfinity) continue;
    const int bucket = Bucket(z[id]);
    if (bucket == edge) candidates.push_back({z[id], static_cast<int32_t>(id)});
    if (bucket > edge) z[id] = kMinusInfinity;
  }
  std::sort(candidates.begin(), candidates.end(), Before);
  for (size_t i = PrefixReaching(candidates, terms, before, target); i < candidates.size(); ++i) {
    z[candidates[i].id] = kMinusInfinity;
  }
}

// SplitMix64's finaliser (Steele, Lea, Flood 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;

uint64_t NoiseKey(const SampleRow& row) {
  uint64_t key = Mix(row.seed + kGolden);
  key = Mix(key + static_cast<uint64_t>(row.position) * kGolden + 1);
  return Mix(key + static_cast<uint64_t>(row.sample_index) * kGolden + 2);
}

// Uniform in (0, 1): an odd multiple of 2^-53, so neither it nor 1 minus it is rounded.
double Uniform(uint64_t key, int64_t id) {
  const uint64_t bits = Mix(key + (static_cast<uint64_t>(id) + 1) * kGolden);
  return static_cast<double>(2 * (bits >> 12) + 1) * 0x1p-53;
}

// -log(1 - v) from basic operations only, so that no library decides the bits: 1 - v = m * 2^e with
// m in [2/3, 4/3], log(m) = 2 atanh((m - 1) / (m + 1)).
double Exponential(double v) {
  int exponent = 0;
  double m = std::frexp(1.0 - v, &exponent);
  if (m < 2.0 / 3.0) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1), square = s * s;
  double series = 0;
  for (int n = 21; n >= 1; n -= 2) series = series * square + 1.0 / n;
  return -(2 * s * series + exponent * 0.6931471805599453);
}

// The id with the highest p / E, E exponential noise of the id: Gumbel-max without the logarithm of
// p. `best` moves only when beaten, so ids must come in ascending order.
struct Race {
  explicit Race(uint64_t noise_key) : key(noise_key) {}
  void Enter(int32_t id, double p) {
    const double v = Uniform(key, id);
    // E > v, so most ids lose without a logarithm.
    if (best >= 0 && p <= best_ratio * v) return;
    const double ratio = p / Exponential(v);
    if (best >= 0 && ratio <= best_ratio) return;
    best = id;
    best_ratio = ratio;
  }
  const uint64_t key;
  int32_t best = -1;
  double best_ratio = 0;
};

int32_t DrawFromTopK(const KernelTable& kernels, const SampleRow& row, int64_t vocab_size,
                     const float* z, float* terms) {
  std::vector<Candidate> kept = SelectTopK(z, vocab_size, row.top_k);
  for (const Candidate& c : kept) kernels.exp(&c.z, 1, &terms[c.id]);
  if (row.top_p < 1.0f) {
    double total = 0;
    for (const Candidate& c : kept) total += terms[c.id];
    kept.resize(PrefixReaching(kept, terms, 0, static_cast<double>(row.top_p) * total));
  }
  std::sort(kept.begin(), kept.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  Race race(NoiseKey(row));
  for (const Candidate& c : kept) {
    if (terms[c.id] >= row.min_p && terms[c.id] > 0) race.Enter(c.id, terms[c.id]);
  }
  return race.best;
}

int32_t DrawFromAll(const KernelTable& kernels, const SampleRow& row, int64_t vocab_size, float* z,
                    float* terms) {
  kernels.exp(z, vocab_size, terms);
  if (row.top_p < 1.0f) CutTopP(z, vocab_size, terms, row.top_p);
  Race race(NoiseKey(row));
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (z[id] == kMinusInfinity || terms[id] < row.min_p || terms[id] == 0) continue;
    race.Enter(static_cast<int32_t>(id), terms[id]);
  }
  return race.best;
}

}  // namespace

int32_t SampleOne(const KernelTable& kernels, const SampleRow& row, int64_t vocab_size,
                  float* logits, SampleScratch& scratch) {
  ApplyPenalties(row, vocab_size, logits, scratch.counts);
  if (row.allowed_ids != nullptr) ApplyMask(row.allowed_ids, vocab_size, logits);
  const int32_t best = ArgMax(logits, vocab_size);
  if (best < 0 || row.temperature < kGreedyBelow) return best;

  const float max = logits[best], inverse = 1.0f / row.temperature;
  for (int64_t id = 0; id < vocab_size; ++id) logits[id] = (logits[id] - max) * inverse;
  scratch.terms.resize(vocab_size);
  float* terms = scratch.terms.data();
  if (row.top_k > 0 && row.top_k < vocab_size) {
    return DrawFromTopK(kernels, row, vocab_size, logits, terms);
  }
  return DrawFromAll(kernels, row, vocab_size, logits, terms);
}

}  // namespace qwenserve
