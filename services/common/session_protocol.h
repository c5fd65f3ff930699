#ifndef QWENSERVE_SERVICES_COMMON_SESSION_PROTOCOL_H_
#define QWENSERVE_SERVICES_COMMON_SESSION_PROTOCOL_H_

#include <cstdint>

namespace qwenserve {

// Versions of the protocol between gateway and generator (generator.proto) that this program
// speaks. A session speaks the lower one of both sides' newest, which the generator says in its
// hello; the side for which that is too old ends it. So either side of an update may be the newer
// one.
inline constexpr uint32_t kSessionProtocol = 1;
inline constexpr uint32_t kOldestSessionProtocol =
    1;  // one less than the newest, once there are two

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_SESSION_PROTOCOL_H_
