#include "services/common/crash_stack.h"

#include <errno.h>
#include <execinfo.h>
#include <signal.h>

#include <algorithm>

#include "absl/debugging/failure_signal_handler.h"
#include "absl/debugging/stacktrace.h"
#include "absl/debugging/symbolize.h"

namespace qwenserve {
namespace {

// Abseil's own way follows frame pointers, which optimised code and the libraries of a distribution
// do not keep; the tables for exceptions are always there. What it finds begins with the frames of
// the signal handler itself.
int UnwindByTables(void** frames, int* sizes, int max_depth, int skip_count, const void*,
                   int* min_dropped_frames) {
  const int found = backtrace(frames, max_depth);
  const int skipped = std::min(found, skip_count);
  std::copy(frames + skipped, frames + found, frames);
  if (sizes != nullptr) std::fill_n(sizes, found - skipped, 0);
  if (min_dropped_frames != nullptr) *min_dropped_frames = 0;
  return found - skipped;
}

}  // namespace

void PrintStackOnCrash() {
  struct sigaction before {};
  if (sigaction(SIGSEGV, nullptr, &before) == 0 && before.sa_handler != SIG_DFL) return;
  struct sigaction terminate {};
  sigaction(SIGTERM, nullptr, &terminate);
  void* frame = nullptr;
  backtrace(&frame, 1);  // the first call loads a library, which a signal handler may not do
  absl::SetStackUnwinder(UnwindByTables);
  absl::InitializeSymbolizer(program_invocation_name);
  absl::FailureSignalHandlerOptions options;
  // Should the handler itself hang, on a lock that the crashed thread holds, SIGALRM ends it.
  options.alarm_on_failure_secs = 10;
  absl::InstallFailureSignalHandler(options);
  // Abseil counts SIGTERM as a failure; here it is how a process is asked to end.
  sigaction(SIGTERM, &terminate, nullptr);
}

}  // namespace qwenserve
