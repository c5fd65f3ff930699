#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_RANDOM_DRAWS_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_RANDOM_DRAWS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// What the gateway draws for requests. From any thread; not for secrets.

// `prefix` and 128 random bits in hexadecimal.
std::string RandomId(absl::string_view prefix);

// A seed for a request without one. Below 2^53: clients in languages whose numbers are doubles can
// repeat it exactly.
uint64_t DrawSeed();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_RANDOM_DRAWS_H_
