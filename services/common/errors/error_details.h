#ifndef QWENSERVE_SERVICES_COMMON_ERRORS_ERROR_DETAILS_H_
#define QWENSERVE_SERVICES_COMMON_ERRORS_ERROR_DETAILS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace qwenserve {

// Rich errors on an absl::Status: each detail is a payload under the type URL that google.rpc.Any
// gives it, so status_mapping.h carries it over the wire unchanged. Messages and details go to
// clients: no addresses, no internal texts, no content of prompts.

inline constexpr char kErrorDomain[] = "qwenserve";

// Reasons that clients may act on. Stable: part of the API.
inline constexpr char kReasonInvalidField[] = "INVALID_FIELD";
inline constexpr char kReasonContextLength[] = "CONTEXT_LENGTH_EXCEEDED";
inline constexpr char kReasonModelNotFound[] = "MODEL_NOT_FOUND";
inline constexpr char kReasonApiKeyMissing[] = "API_KEY_MISSING";
inline constexpr char kReasonApiKeyInvalid[] = "API_KEY_INVALID";
inline constexpr char kReasonQueueFull[] = "QUEUE_FULL";
inline constexpr char kReasonDeadlineUnreachable[] = "DEADLINE_UNREACHABLE";
inline constexpr char kReasonQuotaExceeded[] = "QUOTA_EXCEEDED";
inline constexpr char kReasonNotGranted[] = "NOT_GRANTED";
inline constexpr char kReasonNoWorker[] = "NO_WORKER";
inline constexpr char kReasonWorkerLost[] = "WORKER_LOST";
inline constexpr char kReasonSuspectedPoison[] = "SUSPECTED_POISON";
inline constexpr char kReasonSlowConsumer[] = "SLOW_CONSUMER";
inline constexpr char kReasonDraining[] = "DRAINING";
inline constexpr char kReasonProtocolVersion[] = "PROTOCOL_VERSION";
inline constexpr char kReasonTokenizerMismatch[] = "TOKENIZER_MISMATCH";
inline constexpr char kReasonNoChatTemplate[] = "NO_CHAT_TEMPLATE";
inline constexpr char kReasonNumeric[] = "NUMERIC";
inline constexpr char kReasonNotBuiltYet[] = "NOT_BUILT_YET";

// `status` with ErrorInfo{reason, kErrorDomain}. Replaces an earlier reason, keeps its metadata.
absl::Status WithReason(absl::Status status, absl::string_view reason);
// Adds to ErrorInfo.metadata, such as ("tokens_sent", "17").
absl::Status WithMetadata(absl::Status status, absl::string_view key, absl::string_view value);
// Adds a BadRequest violation; `field` is a path in the request, such as `messages[2].role`.
absl::Status WithField(absl::Status status, absl::string_view field, absl::string_view description);
// Tells the client when another try makes sense.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);
// Adds a QuotaFailure violation: who has used up what.
absl::Status WithQuotaViolation(absl::Status status, absl::string_view subject,
                                absl::string_view description);

// INVALID_ARGUMENT "`field`: `description`" with reason INVALID_FIELD and the violation.
absl::Status InvalidField(absl::string_view field, absl::string_view description);

// Empty when there is none.
std::string ErrorReason(const absl::Status& status);
std::string ErrorMetadata(const absl::Status& status, absl::string_view key);
// The field of the first violation.
std::string ErrorField(const absl::Status& status);
// When another try makes sense; 0 when nothing is said about it.
absl::Duration ErrorRetryAfter(const absl::Status& status);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_ERRORS_ERROR_DETAILS_H_
