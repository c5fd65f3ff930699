#include "tools/qwenctl/exit_codes.h"

#include <iostream>

#include "absl/time/time.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {

ExitCode ReportError(const absl::Status& status) {
  std::cerr << "qwenctl: " << absl::StatusCodeToString(status.code()) << ": " << status.message();
  const std::string reason = ErrorReason(status);
  if (!reason.empty()) std::cerr << " [" << reason << "]";
  if (const absl::Duration wait = ErrorRetryAfter(status); wait > absl::ZeroDuration()) {
    std::cerr << "; try again in " << absl::ToInt64Seconds(absl::Ceil(wait, absl::Seconds(1)))
              << " s";
  }
  std::cerr << std::endl;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kUnavailable:
      return kExitUnavailable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kExitRefused;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitTimeout;
    case absl::StatusCode::kResourceExhausted:
      return kExitOverloaded;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitFailed;
  }
}

}  // namespace qwenserve
