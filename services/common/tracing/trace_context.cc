#include "services/common/tracing/trace_context.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qwenserve {
namespace {

// version "-" trace id "-" span id "-" flags, in lower-case hexadecimal.
constexpr size_t kTraceparentLength = 55;
constexpr size_t kTraceparentDashes[] = {2, 35, 52};
constexpr uint64_t kSampledFlag = 1;

bool IsLowerHex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

uint64_t HexValue(absl::string_view digits) {
  uint64_t value = 0;
  for (char c : digits) value = value * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
  return value;
}

}  // namespace

TraceContext ParseTraceparent(absl::string_view value) {
  const bool longer = value.size() > kTraceparentLength;
  if (value.size() < kTraceparentLength || (longer && value[kTraceparentLength] != '-')) return {};
  const absl::string_view version = value.substr(0, 2);
  if (version == "ff" || (version == "00" && longer)) return {};
  for (size_t i = 0; i < kTraceparentLength; ++i) {
    const bool dash = std::find(std::begin(kTraceparentDashes), std::end(kTraceparentDashes), i) !=
                      std::end(kTraceparentDashes);
    if (dash ? value[i] != '-' : !IsLowerHex(value[i])) return {};
  }
  TraceContext context;
  context.trace_high = HexValue(value.substr(3, 16));
  context.trace_low = HexValue(value.substr(19, 16));
  context.span = HexValue(value.substr(36, 16));
  context.sampled = (HexValue(value.substr(53, 2)) & kSampledFlag) != 0;
  return context.valid() ? context : TraceContext();
}

std::string FormatTraceparent(const TraceContext& context) {
  return absl::StrFormat("00-%016x%016x-%016x-%02x", context.trace_high, context.trace_low,
                         context.span, context.sampled ? kSampledFlag : 0);
}

std::string TraceIdText(const TraceContext& context) {
  if (!context.valid()) return "";
  return absl::StrCat(absl::Hex(context.trace_high, absl::kZeroPad16),
                      absl::Hex(context.trace_low, absl::kZeroPad16));
}

}  // namespace qwenserve
