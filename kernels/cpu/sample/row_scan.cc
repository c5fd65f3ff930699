#include "kernels/cpu/sample/row_scan.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace qwenserve {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Equal steps of -log(p), which ends at 87.33 since p is 0 from there on.
constexpr int kBuckets = 1 << 12;
constexpr float kBucketsPerStep = kBuckets / 87.5f;

}  // namespace

RowScan::RowScan(const KernelTable& kernels, RunChunks run, const float* logits, int64_t count,
                 int64_t first_id, SampleScratch* scratch)
    : kernels_(kernels),
      run_(run),
      logits_(logits),
      count_(count),
      first_id_(first_id),
      scratch_(*scratch) {}

bool RowScan::FindMaxima() {
  // By one thread: 150,000 ids take it 10 us, about what it costs to call the others.
  scratch_.maxima.resize((count_ + kSampleBlock - 1) / kSampleBlock);
  sound_ = kernels_.block_maxima(logits_, count_, scratch_.maxima.data());
  max_ = kMinusInfinity;
  for (float m : scratch_.maxima) max_ = std::max(max_, m);
  return sound_ && max_ != kMinusInfinity;
}

int32_t RowScan::ArgMax() const {
  const auto block = std::find(scratch_.maxima.begin(), scratch_.maxima.end(), max_);
  const int64_t begin = (block - scratch_.maxima.begin()) * kSampleBlock;
  return static_cast<int32_t>(first_id_ +
                              (std::find(logits_ + begin, logits_ + count_, max_) - logits_));
}

std::vector<Candidate> RowScan::Top(int64_t k) const {
  if (k <= 0) return {};
  // k blocks reach the k-th highest maximum, so at least k ids do.
  float least = std::numeric_limits<float>::lowest();
  std::vector<float>& sorted = scratch_.threshold;
  if (k < static_cast<int64_t>(scratch_.maxima.size())) {
    sorted = scratch_.maxima;
    std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<>());
    least = std::max(least, sorted[k - 1]);
  }
  std::vector<Candidate> candidates;
  for (size_t block = 0; block < scratch_.maxima.size(); ++block) {
    if (scratch_.maxima[block] < least) continue;
    const int64_t begin = static_cast<int64_t>(block) * kSampleBlock;
    const int64_t end = std::min(begin + kSampleBlock, count_);
    for (int64_t i = begin; i < end; ++i) {
      if (logits_[i] < least) continue;
      candidates.push_back({logits_[i], static_cast<int32_t>(first_id_ + i)});
    }
  }
  if (static_cast<int64_t>(candidates.size()) > k) {
    std::nth_element(candidates.begin(), candidates.begin() + (k - 1), candidates.end(), Before);
    candidates.resize(k);
  }
  std::sort(candidates.begin(), candidates.end(), Before);
  return candidates;
}

int64_t RowScan::Weigh(float max, float inverse_temperature) {
  scratch_.p.resize(std::max<size_t>(scratch_.p.size(), count_));
  float* p = scratch_.p.data();
  std::vector<int64_t> masses(chunks());
  run_(chunks(), [&](int64_t c) {
    const int64_t begin = c * kChunk;
    masses[c] = kernels_.weigh(logits_ + begin, std::min(kChunk, count_ - begin), max,
                               inverse_temperature, p + begin);
  });
  int64_t total = 0;
  for (int64_t mass : masses) total += mass;
  return total;
}

Race RowScan::RunRace(uint64_t key, float min_p) const {
  std::vector<Race> races(chunks(), Race(key));
  run_(chunks(), [&](int64_t c) {
    Race race(key);  // not in the array: neighbours there share a cache line
    const float* p = scratch_.p.data();
    const int64_t end = std::min((c + 1) * kChunk, count_);
    for (int64_t i = c * kChunk; i < end;) {
      i += kernels_.race_next(p + i, end - i, key, first_id_ + i, race.bound());
      const int64_t stop = std::min(i + kSampleBlock, end);
      for (; i < stop; ++i) {
        if (p[i] > 0 && p[i] >= min_p) race.Enter(static_cast<int32_t>(first_id_ + i), p[i]);
      }
    }
    races[c] = race;
  });
  Race winner(key);
  for (const Race& race : races) winner.Merge(race.id(), race.ratio());
  return winner;
}

template <typename Measure>
void RowScan::Cut(Measure measure, double target, float inverse_temperature) {
  // Every stripe of the row has its own buckets and candidates; sums are exact, so their number
  // changes nothing.
  constexpr int64_t kStripes = 8;
  const auto end_of = [count = count_](int64_t stripe) { return (stripe + 1) * count / kStripes; };
  const auto step_of = [max = max_, scale = inverse_temperature * kBucketsPerStep,
                        logits = logits_](int64_t i) { return (max - logits[i]) * scale; };
  float* p = scratch_.p.data();
  std::vector<int64_t> sums(kStripes * kBuckets);
  run_(kStripes, [&sums, measure, p, end_of, step_of](int64_t stripe) {
    int64_t* own = sums.data() + stripe * kBuckets;
    for (int64_t i = end_of(stripe - 1); i < end_of(stripe); ++i) {
      if (p[i] > 0) own[std::min(static_cast<int>(step_of(i)), kBuckets - 1)] += measure(p[i]);
    }
  });
  for (int64_t i = kBuckets; i < kStripes * kBuckets; ++i) sums[i % kBuckets] += sums[i];
  int edge = 0;
  int64_t before = 0;
  while (edge + 1 < kBuckets && static_cast<double>(before + sums[edge]) < target) {
    before += sums[edge++];
  }

  std::vector<std::vector<Candidate>> found(kStripes);
  const float first = static_cast<float>(edge), behind = static_cast<float>(edge + 1);
  run_(kStripes, [&found, logits = logits_, p, end_of, step_of, first, behind](int64_t stripe) {
    for (int64_t i = end_of(stripe - 1); i < end_of(stripe); ++i) {
      const float step = step_of(i);
      // No branches that no one could predict.
      p[i] *= static_cast<float>(step < behind);
      if ((step >= first) & (step < behind)) {
        found[stripe].push_back({logits[i], static_cast<int32_t>(i)});
      }
    }
  });
  std::vector<Candidate> candidates;
  for (const auto& own : found) candidates.insert(candidates.end(), own.begin(), own.end());
  std::sort(candidates.begin(), candidates.end(), Before);
  for (const Candidate& c : candidates) {
    if (static_cast<double>(before) >= target) {
      p[c.id] = 0;
    } else if (p[c.id] > 0) {
      before += measure(p[c.id]);
    }
  }
}

void RowScan::CutTopP(float top_p, int64_t total, float inverse_temperature) {
  // Not the function's address, through which it would be called for every id.
  Cut([](float p) { return MassOf(p); }, static_cast<double>(top_p) * static_cast<double>(total),
      inverse_temperature);
}

int64_t RowScan::CutTopK(int64_t k, float inverse_temperature) {
  Cut([](float) { return int64_t{1}; }, static_cast<double>(k), inverse_temperature);
  std::vector<int64_t> masses(chunks());
  run_(chunks(), [&](int64_t c) {
    const float* p = scratch_.p.data();
    int64_t mass = 0;
    for (int64_t i = c * kChunk; i < std::min((c + 1) * kChunk, count_); ++i) mass += MassOf(p[i]);
    masses[c] = mass;
  });
  return std::accumulate(masses.begin(), masses.end(), int64_t{0});
}

size_t PrefixReaching(absl::Span<const float> p, int64_t mass, float top_p, int64_t total,
                      bool* reached) {
  const double target = static_cast<double>(top_p) * static_cast<double>(total);
  *reached = true;
  for (size_t i = 0; i < p.size(); ++i) {
    mass += MassOf(p[i]);
    if (static_cast<double>(mass) >= target) return i + 1;
  }
  *reached = false;
  return p.size();
}

}  // namespace qwenserve
