#ifndef QWENSERVE_SERVICES_COMMON_WIRE_TIME_H_
#define QWENSERVE_SERVICES_COMMON_WIRE_TIME_H_

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"

namespace qwenserve {

// google.protobuf.Duration and back. Infinite durations have no form on the wire: leave the field
// unset instead.
inline void ToWire(absl::Duration duration, google::protobuf::Duration* wire) {
  absl::Duration rest;
  wire->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  wire->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

inline absl::Duration FromWire(const google::protobuf::Duration& wire) {
  return absl::Seconds(wire.seconds()) + absl::Nanoseconds(wire.nanos());
}

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_WIRE_TIME_H_
