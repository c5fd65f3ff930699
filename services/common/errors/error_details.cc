#include "services/common/errors/error_details.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"

namespace qwenserve {
namespace {

template <typename Detail>
std::string TypeUrl() {
  return absl::StrCat("type.googleapis.com/", Detail::descriptor()->full_name());
}

// The detail that `status` carries, or an empty one.
template <typename Detail>
Detail GetDetail(const absl::Status& status) {
  Detail detail;
  if (auto payload = status.GetPayload(TypeUrl<Detail>()); payload.has_value()) {
    // A payload from a peer may be malformed: then it counts as absent.
    if (!detail.ParseFromString(std::string(*payload))) detail.Clear();
  }
  return detail;
}

template <typename Detail>
absl::Status SetDetail(absl::Status status, const Detail& detail) {
  status.SetPayload(TypeUrl<Detail>(), absl::Cord(detail.SerializeAsString()));
  return status;
}

}  // namespace

absl::Status WithReason(absl::Status status, absl::string_view reason) {
  auto info = GetDetail<google::rpc::ErrorInfo>(status);
  info.set_reason(std::string(reason));
  info.set_domain(kErrorDomain);
  return SetDetail(std::move(status), info);
}

absl::Status WithMetadata(absl::Status status, absl::string_view key, absl::string_view value) {
  auto info = GetDetail<google::rpc::ErrorInfo>(status);
  info.set_domain(kErrorDomain);
  (*info.mutable_metadata())[std::string(key)] = std::string(value);
  return SetDetail(std::move(status), info);
}

absl::Status WithField(absl::Status status, absl::string_view field,
                       absl::string_view description) {
  auto bad_request = GetDetail<google::rpc::BadRequest>(status);
  auto* violation = bad_request.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(std::string(description));
  return SetDetail(std::move(status), bad_request);
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo info;
  const int64_t seconds = absl::IDivDuration(delay, absl::Seconds(1), &delay);
  info.mutable_retry_delay()->set_seconds(seconds);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(delay)));
  return SetDetail(std::move(status), info);
}

absl::Status WithQuotaViolation(absl::Status status, absl::string_view subject,
                                absl::string_view description) {
  auto failure = GetDetail<google::rpc::QuotaFailure>(status);
  auto* violation = failure.add_violations();
  violation->set_subject(std::string(subject));
  violation->set_description(std::string(description));
  return SetDetail(std::move(status), failure);
}

absl::Status InvalidField(absl::string_view field, absl::string_view description) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", description));
  return WithField(WithReason(std::move(status), kReasonInvalidField), field, description);
}

std::string ErrorReason(const absl::Status& status) {
  return GetDetail<google::rpc::ErrorInfo>(status).reason();
}

std::string ErrorMetadata(const absl::Status& status, absl::string_view key) {
  const auto info = GetDetail<google::rpc::ErrorInfo>(status);
  auto found = info.metadata().find(std::string(key));
  return found == info.metadata().end() ? "" : found->second;
}

std::string ErrorField(const absl::Status& status) {
  const auto bad_request = GetDetail<google::rpc::BadRequest>(status);
  return bad_request.field_violations_size() == 0 ? "" : bad_request.field_violations(0).field();
}

absl::Duration ErrorRetryAfter(const absl::Status& status) {
  const auto info = GetDetail<google::rpc::RetryInfo>(status);
  return absl::Seconds(info.retry_delay().seconds()) +
         absl::Nanoseconds(info.retry_delay().nanos());
}

}  // namespace qwenserve
