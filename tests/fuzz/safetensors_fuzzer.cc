// Any bytes as a safetensors file: a refusal, or entries that lie inside the file.
#include <cstdint>
#include <cstdlib>

#include "engine/loader/safetensors.h"

using qwenserve::SafetensorsEntry;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto entries = qwenserve::ParseSafetensors({data, size}, "fuzzed");
  if (!entries.ok()) return 0;
  uint64_t sum = 0;
  for (const SafetensorsEntry& entry : *entries) {
    if (entry.offset < 8 || entry.bytes < 0) std::abort();
    for (int64_t i = 0; i < entry.bytes; ++i) sum += data[entry.offset + i];
  }
  // Keeps the reads, which the address sanitizer watches.
  asm volatile("" : : "r"(sum));
  return 0;
}
