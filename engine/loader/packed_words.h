#ifndef QWENSERVE_ENGINE_LOADER_PACKED_WORDS_H_
#define QWENSERVE_ENGINE_LOADER_PACKED_WORDS_H_

#include <bit>
#include <cstdint>
#include <cstring>

namespace qwenserve {

static_assert(std::endian::native == std::endian::little, "words are read as the files hold them");

// The eight 4-bit numbers of a word, the lowest first, one byte each.
inline uint64_t SpreadNibbles(uint32_t word) {
  uint64_t bytes = word;
  bytes = (bytes | bytes << 16) & 0x0000ffff0000ffffu;
  bytes = (bytes | bytes << 8) & 0x00ff00ff00ff00ffu;
  return (bytes | bytes << 4) & 0x0f0f0f0f0f0f0f0fu;
}

// Number `index` of a run of words that hold 32 / bits each, the lowest bits first.
inline int32_t PackedNumber(const uint32_t* words, int64_t index, int64_t bits) {
  const uint32_t word = words[static_cast<uint64_t>(index * bits) >> 5];
  return static_cast<int32_t>(word >> (index * bits & 31) & ((1u << bits) - 1));
}

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_PACKED_WORDS_H_
