#include "services/generator/load_progress.h"

#include <unistd.h>

#include <cstdio>

#include "engine/base/monotonic_time.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kRedraw = absl::Milliseconds(100);
constexpr absl::Duration kLogEvery = absl::Seconds(5);

}  // namespace

LoadProgressPrinter::LoadProgressPrinter()
    : terminal_(isatty(STDERR_FILENO) != 0), start_(MonotonicNow()), last_(start_) {}

void LoadProgressPrinter::Show(int64_t done, int64_t total) {
  const absl::Time now = MonotonicNow();
  const bool last = done >= total;
  if (!last && now - last_ < (terminal_ ? kRedraw : kLogEvery)) return;
  last_ = now;
  const double seconds = absl::ToDoubleSeconds(now - start_);
  const double megabytes = static_cast<double>(done) / 1e6;
  const double percent =
      total > 0 ? 100.0 * static_cast<double>(done) / static_cast<double>(total) : 100.0;
  const double rate = seconds > 0 ? megabytes / seconds : 0;
  if (terminal_) {
    std::fprintf(stderr, "\rloading %5.1f %%  %.0f of %.0f MB  %.0f MB/s%s", percent, megabytes,
                 static_cast<double>(total) / 1e6, rate, last ? "\n" : "");
  } else {
    spdlog::info("loading {:.1f} %: {:.0f} of {:.0f} MB, {:.0f} MB/s", percent, megabytes,
                 static_cast<double>(total) / 1e6, rate);
  }
}

}  // namespace qwenserve
