#include "services/gateway/routing/wait_predictor.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

namespace qwenserve {
namespace {

// How far back the past counts: long enough to see many steps, short enough to follow the load.
constexpr double kCostSeconds = 15;
constexpr double kPaceSeconds = 5;
// Requests differ, so that it takes many to tell how far expectations are off. Before so many
// nothing is corrected.
constexpr double kCorrectionSeconds = 60;
constexpr double kUncorrected = 16;
// Answers' lengths are spread widely, so their mean needs many.
constexpr double kAnswers = 256;
// A prompt's token costs about an eighth of an answer's where nothing tells them apart, as when all
// requests are alike. The weight of this guess beside the samples.
constexpr double kCostRatio = 0.125;
constexpr double kRatioWeight = 0.01;
// Before any answer has ended.
constexpr uint32_t kUnknownAnswer = 256;

// All lengths below 2^((class + 1) / 2).
size_t LengthClass(uint32_t tokens) {
  return tokens == 0 ? 0 : static_cast<size_t>(2 * std::log2(tokens));
}

void Decay(double factor, std::initializer_list<double*> sums) {
  for (double* sum : sums) *sum *= factor;
}

}  // namespace

void WaitPredictor::OnWork(const ReplicaWork& work) {
  done_.prompt_tokens += work.prompt_tokens;
  done_.answer_tokens += work.answer_tokens;
  gap_seconds_ += absl::ToDoubleSeconds(work.gaps);
  gap_tokens_ += static_cast<double>(work.gap_tokens);
  start_seconds_ += absl::ToDoubleSeconds(work.start_delays);
  starts_ += static_cast<double>(work.started_sequences);
  for (uint32_t tokens : work.answers) {
    ++ended_;
    ended_tokens_ += tokens;
    lengths_[LengthClass(tokens)] += tokens;
  }
  if (ended_ > 2 * kAnswers) {
    Decay(0.5, {&ended_, &ended_tokens_});
    for (double& count : lengths_) count *= 0.5;
  }
}

void WaitPredictor::OnPlaced(const QueueWork& expected) {
  placed_ += expected;
  ++placements_;
}

void WaitPredictor::Sample(absl::Time now, size_t replicas, bool busy) {
  if (busy && replicas > 0 && done_.prompt_tokens + done_.answer_tokens == 0) {
    // Steps that are longer than a sample: the time counts for what comes of them.
    if (sampled_ != absl::InfinitePast()) return;
  }
  const double seconds =
      sampled_ == absl::InfinitePast() ? 0 : absl::ToDoubleSeconds(now - sampled_);
  sampled_ = now;
  const ReplicaWork done = std::exchange(done_, {});
  const QueueWork placed = std::exchange(placed_, {});
  if (seconds <= 0) return;
  const double pace = std::exp(-seconds / kPaceSeconds);
  Decay(pace, {&gap_seconds_, &gap_tokens_, &start_seconds_, &starts_});
  if (!busy || replicas == 0) return;

  const double time = seconds * static_cast<double>(replicas);
  const double x = static_cast<double>(done.prompt_tokens) / time;
  const double y = static_cast<double>(done.answer_tokens) / time;
  Decay(std::exp(-seconds / kCostSeconds), {&weight_, &x_, &y_, &xx_, &xy_, &yy_});
  weight_ += seconds;
  x_ += seconds * x;
  y_ += seconds * y;
  xx_ += seconds * x * x;
  xy_ += seconds * x * y;
  yy_ += seconds * y * y;
  Fit();
  Decay(std::exp(-seconds / kCorrectionSeconds),
        {&placements_, &expected_seconds_, &busy_seconds_});
  expected_seconds_ += Cost(placed);
  busy_seconds_ += time;
}

double WaitPredictor::Correction() const {
  if (placements_ < 1 || expected_seconds_ <= 0) return 1;
  const double unsure = expected_seconds_ / placements_ * kUncorrected;
  return std::clamp((busy_seconds_ + unsure) / (expected_seconds_ + unsure), 0.25, 4.0);
}

// The costs (a, b) that make a x + b y nearest to 1.
void WaitPredictor::Fit() {
  const double scale = (x_ + y_) / weight_;
  const double guess = kRatioWeight * weight_ * scale * scale;
  const double xx = xx_ + guess;
  const double xy = xy_ - kCostRatio * guess;
  const double yy = yy_ + kCostRatio * kCostRatio * guess;
  const double determinant = xx * yy - xy * xy;
  double a = (x_ * yy - y_ * xy) / determinant;
  double b = (y_ * xx - x_ * xy) / determinant;
  if (!(a > 0)) {
    a = 0;
    b = 1;
  } else if (!(b > 0)) {
    a = 1;
    b = 0;
  }
  // Least squares of noisy counts come out too small; what is known exactly is the whole.
  const double total = a * x_ + b * y_;
  if (total <= 0) return;
  prompt_cost_ = a * weight_ / total;
  answer_cost_ = b * weight_ / total;
}

std::optional<absl::Duration> WaitPredictor::Wait(const QueueWork& ahead, size_t replicas) const {
  if (weight_ == 0 || replicas == 0) return std::nullopt;
  return absl::Seconds(Cost(ahead) * Correction() / static_cast<double>(replicas));
}

absl::Duration WaitPredictor::Prefill(uint64_t prompt_tokens) const {
  return absl::Seconds(prompt_cost_ * static_cast<double>(prompt_tokens));
}

absl::Duration WaitPredictor::Start(uint64_t prompt_tokens) const {
  const double lately = starts_ > 0 ? start_seconds_ / starts_ : 0;
  return std::max(Prefill(prompt_tokens), absl::Seconds(lately));
}

absl::Duration WaitPredictor::Decode(uint64_t answer_tokens) const {
  if (answer_tokens == 0 || gap_tokens_ == 0) return absl::ZeroDuration();
  return absl::Seconds(gap_seconds_ / gap_tokens_ * static_cast<double>(answer_tokens - 1));
}

uint32_t WaitPredictor::MeanAnswer(uint32_t max_tokens) const {
  if (ended_ == 0) return std::min(max_tokens, kUnknownAnswer);
  return std::min(max_tokens, static_cast<uint32_t>(std::lround(ended_tokens_ / ended_)));
}

uint32_t WaitPredictor::LongAnswer(uint32_t max_tokens) const {
  if (ended_ == 0) return std::min(max_tokens, kUnknownAnswer);
  double below = 0;
  size_t i = 0;
  while (i + 1 < lengths_.size() && (below += lengths_[i]) < 0.95 * ended_tokens_) ++i;
  const double length = std::exp2((static_cast<double>(i) + 1) / 2);
  return static_cast<uint32_t>(std::min<double>(max_tokens, length));
}

}  // namespace qwenserve
