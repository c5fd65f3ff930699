#ifndef QWENSERVE_SERVICES_COMMON_PROTO_TIME_H_
#define QWENSERVE_SERVICES_COMMON_PROTO_TIME_H_

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace qwenserve {

inline absl::Duration FromProtoDuration(const google::protobuf::Duration& proto) {
  return absl::Seconds(proto.seconds()) + absl::Nanoseconds(proto.nanos());
}

inline void ToProtoDuration(absl::Duration duration, google::protobuf::Duration* proto) {
  proto->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

inline void ToProtoTimestamp(absl::Time time, google::protobuf::Timestamp* proto) {
  const int64_t nanoseconds = absl::ToUnixNanos(time);
  proto->set_seconds(nanoseconds / 1'000'000'000);
  proto->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
}

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_PROTO_TIME_H_
