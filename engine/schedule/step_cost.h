#ifndef QWENSERVE_ENGINE_SCHEDULE_STEP_COST_H_
#define QWENSERVE_ENGINE_SCHEDULE_STEP_COST_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace qwenserve {

// What a step worked on, as far as its length depends on it.
struct StepShape {
  int64_t decode_rows = 0;   // rows of sequences that have nothing else to compute
  int64_t prefill_rows = 0;  // all others
  // Sum of the absolute positions of the prefill rows: what attention reads.
  int64_t prefill_positions = 0;
};

// Learns from measured steps how long the next one will take:
//
//   step(d, rows) = decode(d) + sum over the prefill rows of (row + position * row_per_position)
//
// decode(d) is a moving average of steps that only decoded, one for each power of two of d. The two
// constants of a prefill row are a line fitted by least squares through what the steps took beyond
// decode(d) per row; old steps count less and less, so that the model follows the machine's load.
//
// Only times come out of here, and they decide where a prefill is cut, which changes no bit of any
// result. One thread.
class StepCost {
 public:
  void Learn(const StepShape& shape, absl::Duration took);

  bool has_learned() const { return learned_; }
  // Whether a step with about so many decoding rows and nothing else was measured.
  bool HasDecode(int64_t decode_rows) const {
    return decode_rows > 0 && decode_seconds_[Bucket(decode_rows)] > 0;
  }

  // Of a step with so many decoding rows and nothing else. The nearest measured number of rows
  // stands in for one that was never seen; 0 = nothing measured yet, or no rows.
  absl::Duration Decode(int64_t decode_rows) const;

  // What `rows` prefill rows from `first_position` on add to a step; 0 = nothing measured yet.
  absl::Duration Prefill(int64_t first_position, int64_t rows) const;

  // Of a whole step; 0 = not all of it is of a kind that was measured.
  absl::Duration Step(const StepShape& shape) const;

  // How many prefill rows from `first_position` on add at most `time`; 0 = none, or nothing
  // measured yet. Never more than twice as many as the largest recent step had, because the cost
  // of a row is only known for steps of the kind that have been.
  int64_t RowsWithin(absl::Duration time, int64_t first_position) const;

 private:
  static constexpr int kBuckets = 17;  // decode rows up to 2^16

  static int Bucket(int64_t decode_rows);
  void LearnRows(const StepShape& shape, double seconds);
  double RowSeconds(double position) const;

  bool learned_ = false;
  std::array<double, kBuckets> decode_seconds_{};  // 0 = not measured
  // Sums over the prefilling steps, weighted by their rows: of 1, position, position^2, seconds per
  // row, seconds per row times position.
  double weight_ = 0, x_ = 0, xx_ = 0, y_ = 0, xy_ = 0;
  double row_ = 0;               // seconds of a row at position 0
  double row_per_position_ = 0;  // seconds more per position
  double recent_rows_ = 0;       // prefill rows of the largest recent step
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_STEP_COST_H_
