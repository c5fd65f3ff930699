#ifndef QWENSERVE_SERVICES_COMMON_DIGEST_H_
#define QWENSERVE_SERVICES_COMMON_DIGEST_H_

#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// 32 bytes each (FIPS 180-4, RFC 2104).
std::string Sha256(absl::string_view text);
std::string HmacSha256(absl::string_view key, absl::string_view text);

// Lower-case; and back from 2 n hexadecimal digits of either case.
std::string ToHex(absl::string_view bytes);
std::string FromHex(absl::string_view digits);

// From the system's source for keys.
std::string RandomBytes(size_t count);

// In a time that depends on the lengths alone.
bool EqualInConstantTime(absl::string_view a, absl::string_view b);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_DIGEST_H_
