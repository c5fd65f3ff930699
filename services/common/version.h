#ifndef QWENSERVE_SERVICES_COMMON_VERSION_H_
#define QWENSERVE_SERVICES_COMMON_VERSION_H_

#include "absl/strings/string_view.h"

namespace qwenserve {

// Of the program, such as "0.1.0".
absl::string_view Version();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_VERSION_H_
