#ifndef QWENSERVE_TOOLS_BENCH_NOOP_BACKEND_H_
#define QWENSERVE_TOOLS_BENCH_NOOP_BACKEND_H_

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "kernels/wrapping_backend.h"

namespace qwenserve {

// A backend that has memory but computes nothing: every op returns at once, and every row draws the
// same token. What an engine then spends on a step is what it spends beside the kernels. Ops that
// are repeated are not issued again, as a GPU would have it.
class NoopBackend final : public WrappingBackend {
 public:
  // `device` keeps the memory. A step takes `busy`, from when it is launched or the one before
  // ends.
  NoopBackend(std::unique_ptr<Backend> device, absl::Duration busy)
      : WrappingBackend(std::move(device)), busy_(absl::ToChronoNanoseconds(busy)) {}

  std::string kernel_table(WeightFormat) const override { return "none"; }

  void Embed(const int32_t*, int64_t, const LinearWeight&, int64_t, float*) override {}
  void TakeDrawn(const int32_t*, int64_t, int32_t*) override {}
  void RmsNorm(const float*, int64_t, int64_t, const float*, float, void*) override {}
  void AddRmsNorm(const float*, int64_t, int64_t, float*, const float*, float, void*) override {}
  void Linear(const void*, int64_t, const LinearWeight&, const float*, float*) override {}
  void NormRopeStoreKv(const AttentionBatch&, const HeadLayout&, const float*, const float*, float,
                       absl::Span<const RopeTable>, float*, const KvLayer&) override {}
  void PagedAttention(const AttentionBatch&, const HeadLayout&, const float*, const KvLayer&,
                      void*) override {}
  void SiluMul(const float*, int64_t, int64_t, void*) override {}
  void GatherRows(const void*, int64_t, const int32_t*, int64_t, void*) override {}
  void Sample(float*, int64_t, int64_t, absl::Span<const SampleRow> rows, int32_t*,
              SampledToken* tokens) override {
    for (size_t i = 0; i < rows.size(); ++i) tokens[i] = {.id = 1};
  }
  bool reads_last_id() const override { return true; }
  absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) override {
    return recorded_.insert(key).second ? issue() : absl::OkStatus();
  }
  absl::Status Sync() override { return Wait(last_mark_); }
  uint64_t Mark() override {
    ends_.push_back(std::max(Clock::now(), last_end_) + busy_);
    last_end_ = ends_.back();
    return ++last_mark_;
  }
  absl::Status Wait(uint64_t mark) override {
    for (; last_mark_ - ends_.size() < mark; ends_.pop_front()) {
      while (busy_.count() > 0 && Clock::now() < ends_.front()) {
      }
    }
    return absl::OkStatus();
  }

 private:
  using Clock = std::chrono::steady_clock;

  const std::chrono::nanoseconds busy_;
  std::set<uint64_t> recorded_;
  std::deque<Clock::time_point> ends_;  // of the steps that nobody has waited for
  Clock::time_point last_end_;
  uint64_t last_mark_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_NOOP_BACKEND_H_
