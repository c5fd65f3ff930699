#include "kernels/kv_format.h"

namespace qwenserve {

const char* KvFormatName(KvFormat format) {
  switch (format) {
    case KvFormat::kF32:
      return "f32";
    case KvFormat::kBf16:
      return "bf16";
    case KvFormat::kInt8:
      return "int8";
    case KvFormat::kQwenInt8:
      return "qwen-int8";
  }
  return "unknown";
}

std::optional<KvFormat> KvFormatFromName(absl::string_view name) {
  for (const KvFormat format : kAllKvFormats) {
    if (name == KvFormatName(format)) return format;
  }
  return std::nullopt;
}

}  // namespace qwenserve
