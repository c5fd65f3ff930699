#ifndef QWENSERVE_TOOLS_QWENCTL_EXIT_CODES_H_
#define QWENSERVE_TOOLS_QWENCTL_EXIT_CODES_H_

#include "absl/status/status.h"

namespace qwenserve {

// What scripts may test. Stable; listed in `qwenctl --help` and the README.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,       // anything not listed below
  kExitUsage = 2,        // wrong command line
  kExitUnavailable = 3,  // no server there, no worker, or the stream broke
  kExitRefused = 4,      // the server refused the request: bad field, unknown model, not built yet
  kExitTimeout = 5,      // --timeout passed
  kExitOverloaded = 6,   // the server is full: try again later
  kExitLimit = 7,        // fewer good requests than `bench` was asked for
  kExitInterrupted = 130,
};

// Prints "qwenctl: <code>: <message>" with the error's reason, and when another try makes sense if
// the server said it, to stderr.
ExitCode ReportError(const absl::Status& status);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_EXIT_CODES_H_
