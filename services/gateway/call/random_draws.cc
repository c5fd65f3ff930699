#include "services/gateway/call/random_draws.h"

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"

namespace qwenserve {

std::string RandomId(absl::string_view prefix) {
  thread_local absl::BitGen random;
  return absl::StrCat(prefix, absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16),
                      absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16));
}

uint64_t DrawSeed() {
  thread_local absl::BitGen random;
  return absl::Uniform<uint64_t>(random, 0, uint64_t{1} << 53);
}

}  // namespace qwenserve
