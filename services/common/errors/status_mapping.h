#ifndef QWENSERVE_SERVICES_COMMON_ERRORS_STATUS_MAPPING_H_
#define QWENSERVE_SERVICES_COMMON_ERRORS_STATUS_MAPPING_H_

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace qwenserve {

// absl::Status is the only error type inside; these are its forms on the wire. Payloads become
// google.rpc details and back. Every error that leaves has an ErrorInfo: where none was set, its
// reason is the name of the code. The whole stays below 4 KiB (HTTP/2 header limits drop larger
// ones): a long message is cut, and the largest details are left out, ErrorInfo never.

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

google::rpc::Status ToProtoStatus(const absl::Status& status);
absl::Status FromProtoStatus(const google::rpc::Status& status);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_ERRORS_STATUS_MAPPING_H_
