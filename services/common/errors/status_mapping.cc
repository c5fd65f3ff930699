#include "services/common/errors/status_mapping.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
// The message travels twice, once percent-encoded at up to three bytes each.
constexpr size_t kMaxMessageBytes = 512;
constexpr size_t kMaxDetailsBytes = 2048;

// The longest prefix of at most `limit` bytes that does not cut a UTF-8 character.
std::string CutMessage(absl::string_view message, size_t limit) {
  if (message.size() <= limit) return std::string(message);
  while (limit > 0 && (static_cast<unsigned char>(message[limit]) & 0xC0) == 0x80) --limit;
  return std::string(message.substr(0, limit));
}

// gRPC and google.rpc use the numbers of absl::StatusCode; anything else is UNKNOWN.
absl::StatusCode CodeFromNumber(int code) {
  const bool known = code >= 0 && code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  return known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown;
}

}  // namespace

google::rpc::Status ToProtoStatus(const absl::Status& status) {
  google::rpc::Status proto;
  proto.set_code(static_cast<int>(CodeFromNumber(status.raw_code())));
  if (status.ok()) return proto;
  proto.set_message(CutMessage(status.message(), kMaxMessageBytes));
  const absl::Status complete = ErrorReason(status).empty()
                                    ? WithReason(status, absl::StatusCodeToString(status.code()))
                                    : status;
  size_t size = 0;
  auto add = [&](absl::string_view type_url, const absl::Cord& value) {
    google::protobuf::Any* any = proto.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(value));
    size += type_url.size() + value.size();
  };
  add(kErrorInfoUrl, *complete.GetPayload(kErrorInfoUrl));
  complete.ForEachPayload([&](absl::string_view type_url, const absl::Cord& value) {
    if (type_url == kErrorInfoUrl) return;
    if (size + type_url.size() + value.size() <= kMaxDetailsBytes) add(type_url, value);
  });
  return proto;
}

absl::Status FromProtoStatus(const google::rpc::Status& proto) {
  absl::Status status(CodeFromNumber(proto.code()), proto.message());
  for (const google::protobuf::Any& any : proto.details()) {
    status.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return status;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status proto = ToProtoStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(proto.code()), proto.message(),
                      proto.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status proto;
  const bool has_details =
      !status.error_details().empty() && proto.ParseFromString(status.error_details());
  if (!has_details) proto.Clear();
  // The trailer's own code and message win over what the details claim.
  proto.set_code(static_cast<int>(status.error_code()));
  proto.set_message(status.error_message());
  return FromProtoStatus(proto);
}

}  // namespace qwenserve
