#ifndef QWENSERVE_KERNELS_KV_FORMAT_H_
#define QWENSERVE_KERNELS_KV_FORMAT_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace qwenserve {

// How keys and values are kept in the cache.
enum class KvFormat : uint8_t {
  kF32,
  kBf16,
  // Signed bytes with one scale for each token and KV head: depends on the token alone.
  kInt8,
  // The int8 cache of the first Qwen generation (use_cache_quantization in modeling_qwen.py):
  // unsigned bytes with a scale and a zero point for each KV head, taken over all tokens of the
  // step that stores them. So the bits depend on how a prompt was cut into steps.
  kQwenInt8,
};

inline constexpr KvFormat kAllKvFormats[] = {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8,
                                             KvFormat::kQwenInt8};

// Whether a token's keys and values are the same however its sequence is cut into steps. What is
// cached in another format can be neither shared, nor computed again, nor continued elsewhere.
constexpr bool IsInvariant(KvFormat format) { return format != KvFormat::kQwenInt8; }

// f32, bf16, int8, qwen-int8.
const char* KvFormatName(KvFormat format);
std::optional<KvFormat> KvFormatFromName(absl::string_view name);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_KV_FORMAT_H_
