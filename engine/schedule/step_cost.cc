#include "engine/schedule/step_cost.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr double kDecodeGain = 0.2;
constexpr double kForgetStep = 0.97;  // weight of the steps so far when one more comes
constexpr double kOutlier = 4.0;      // a machine that paused says nothing about steps
constexpr double kLeastSpread = 64;   // of positions, below which a slope would be noise
constexpr double kLeastRow = 1e-9;    // seconds; keeps divisions sane when a clock is coarse
constexpr int64_t kFirstRows = 64;    // may be tried before anything of the size was seen

}  // namespace

int StepCost::Bucket(int64_t decode_rows) {
  const int width = static_cast<int>(std::bit_width(static_cast<uint64_t>(decode_rows)));
  return std::min(kBuckets, width) - 1;
}

void StepCost::Learn(const StepShape& shape, absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took);
  if (seconds <= 0) return;
  learned_ = true;
  if (shape.prefill_rows > 0) {
    const double known = absl::ToDoubleSeconds(Decode(shape.decode_rows));
    if (shape.decode_rows == 0 || known > 0) {
      LearnRows(shape, std::max(0.0, seconds - known));
    }
    return;
  }
  if (shape.decode_rows == 0) return;
  double& mean = decode_seconds_[Bucket(shape.decode_rows)];
  mean = mean == 0 ? seconds : mean + kDecodeGain * (std::min(seconds, kOutlier * mean) - mean);
}

void StepCost::LearnRows(const StepShape& shape, double seconds) {
  const double rows = static_cast<double>(shape.prefill_rows);
  const double position = static_cast<double>(shape.prefill_positions) / rows;
  double per_row = seconds / rows;
  if (weight_ > 0) per_row = std::min(per_row, kOutlier * RowSeconds(position));
  weight_ = kForgetStep * weight_ + rows;
  x_ = kForgetStep * x_ + rows * position;
  xx_ = kForgetStep * xx_ + rows * position * position;
  y_ = kForgetStep * y_ + rows * per_row;
  xy_ = kForgetStep * xy_ + rows * per_row * position;
  recent_rows_ = std::max(kForgetStep * recent_rows_, rows);

  const double mean_x = x_ / weight_;
  const double mean_y = y_ / weight_;
  const double variance = xx_ / weight_ - mean_x * mean_x;
  if (variance > kLeastSpread * kLeastSpread) {
    row_per_position_ = std::max(0.0, (xy_ / weight_ - mean_x * mean_y) / variance);
  }
  // A line that falls below 0 at the beginning of the context would promise rows for nothing.
  row_per_position_ = std::min(row_per_position_, mean_y / std::max(mean_x, 1.0));
  row_ = std::max(kLeastRow, mean_y - row_per_position_ * mean_x);
}

double StepCost::RowSeconds(double position) const { return row_ + row_per_position_ * position; }

absl::Duration StepCost::Decode(int64_t decode_rows) const {
  QS_CHECK(decode_rows >= 0);
  if (decode_rows == 0) return absl::ZeroDuration();
  const int bucket = Bucket(decode_rows);
  for (int distance = 0; distance < kBuckets; ++distance) {
    for (int b : {bucket - distance, bucket + distance}) {
      if (b >= 0 && b < kBuckets && decode_seconds_[b] > 0) {
        return absl::Seconds(decode_seconds_[b]);
      }
    }
  }
  return absl::ZeroDuration();
}

absl::Duration StepCost::Prefill(int64_t first_position, int64_t rows) const {
  if (weight_ == 0) return absl::ZeroDuration();
  const double middle = static_cast<double>(first_position) + static_cast<double>(rows) / 2;
  return absl::Seconds(static_cast<double>(rows) * RowSeconds(middle));
}

absl::Duration StepCost::Step(const StepShape& shape) const {
  const absl::Duration decode = Decode(shape.decode_rows);
  if (shape.decode_rows > 0 && decode == absl::ZeroDuration()) return decode;
  if (shape.prefill_rows == 0) return decode;
  if (weight_ == 0) return absl::ZeroDuration();
  const double rows = static_cast<double>(shape.prefill_rows);
  return decode +
         absl::Seconds(rows * RowSeconds(static_cast<double>(shape.prefill_positions) / rows));
}

int64_t StepCost::RowsWithin(absl::Duration time, int64_t first_position) const {
  // An hour is as good as no limit, and its square is a number.
  const double seconds = std::min(absl::ToDoubleSeconds(time), 3600.0);
  if (weight_ == 0 || seconds <= 0) return 0;
  // rows * (first + rows * slope / 2) = seconds
  const double first = RowSeconds(static_cast<double>(first_position));
  const double rows =
      2 * seconds / (first + std::sqrt(first * first + 2 * row_per_position_ * seconds));
  return static_cast<int64_t>(
      std::min(rows, std::max(2 * recent_rows_, static_cast<double>(kFirstRows))));
}

}  // namespace qwenserve
