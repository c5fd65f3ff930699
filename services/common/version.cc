#include "services/common/version.h"

namespace qwenserve {

absl::string_view Version() { return QWENSERVE_VERSION; }

}  // namespace qwenserve
