#ifndef QWENSERVE_KERNELS_CPU_SAMPLE_ROW_SCAN_H_
#define QWENSERVE_KERNELS_CPU_SAMPLE_ROW_SCAN_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/sample/sample_noise.h"

namespace qwenserve {

// Calls work(i) for i = 0..chunks - 1, in any order and on any threads.
using RunChunks = absl::FunctionRef<void(int64_t chunks, absl::FunctionRef<void(int64_t)> work)>;

struct Candidate {
  float logit = 0;
  int32_t id = 0;
};

// The order of a vocabulary: the highest logit first, the lowest id among equals.
inline bool Before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Working memory of one row at a time, kept between calls.
struct SampleScratch {
  std::vector<int32_t> counts;   // [vocabulary], zero between calls
  std::vector<float> p;          // [vocabulary]
  std::vector<float> maxima;     // [blocks]
  std::vector<float> threshold;  // [blocks]
};

// The passes over one row, or a rank's part of one: logits[0..count) of the ids from first_id. Long
// passes are cut into chunks of kChunk ids whatever the number of threads, and what the chunks find
// is combined in a way that has no order: maxima, whole numbers, races.
class RowScan {
 public:
  static constexpr int64_t kChunk = 4096;  // a multiple of kSampleBlock

  RowScan(const KernelTable& kernels, RunChunks run, const float* logits, int64_t count,
          int64_t first_id, SampleScratch* scratch);

  // Must come first, and again when the logits have changed. False when there is a NaN, a +infinity
  // or nothing finite.
  bool FindMaxima();
  // Whether there was a NaN or +infinity.
  bool sound() const { return sound_; }
  float max() const { return max_; }  // -infinity: nothing finite
  // The id of max().
  int32_t ArgMax() const;
  // The k first in the order of Before, sorted; fewer when fewer are finite.
  std::vector<Candidate> Top(int64_t k) const;

  // p = exp((logit - max) * inverse_temperature) of all ids; returns their mass in kMassUnits.
  int64_t Weigh(float max, float inverse_temperature);
  // After Weigh. Those with p > 0 and p >= min_p take part.
  Race RunRace(uint64_t key, float min_p) const;
  // After Weigh with max() and the same temperature: p = 0 for all but the shortest prefix, in the
  // order of Before, whose mass is at least top_p * total.
  void CutTopP(float top_p, int64_t total, float inverse_temperature);
  // The same for the first k ids; returns the mass that is left.
  int64_t CutTopK(int64_t k, float inverse_temperature);

 private:
  // p = 0 behind the shortest prefix, in the order of Before, whose measures add up to `target`.
  template <typename Measure>
  void Cut(Measure measure, double target, float inverse_temperature);
  int64_t chunks() const { return (count_ + kChunk - 1) / kChunk; }

  const KernelTable& kernels_;
  const RunChunks run_;
  const float* const logits_;
  const int64_t count_;
  const int64_t first_id_;
  SampleScratch& scratch_;
  bool sound_ = false;
  float max_ = 0;
};

// How many of the sorted candidates it takes until `mass` and theirs reach top_p * total; all when
// they don't, with *reached false. p: of the candidates, in their order.
size_t PrefixReaching(absl::Span<const float> p, int64_t mass, float top_p, int64_t total,
                      bool* reached);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_SAMPLE_ROW_SCAN_H_
