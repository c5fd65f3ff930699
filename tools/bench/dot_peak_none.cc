// For architectures without AVX-512; never called there.
#include <cstdint>

namespace qwenserve {

float FusedMultiplyAdd512Rounds(int64_t) { return 0; }
float Int8Dot512Rounds(int64_t) { return 0; }
float Bf16Dot512Rounds(int64_t) { return 0; }

}  // namespace qwenserve
