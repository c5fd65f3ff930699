#ifndef QWENSERVE_ENGINE_BASE_SPLIT_MIX_H_
#define QWENSERVE_ENGINE_BASE_SPLIT_MIX_H_

#include <cstdint>

namespace qwenserve {

// splitmix64 (Steele, Lea, Flood 2014): SplitMix of seed + kSplitMixStep, seed + 2 kSplitMixStep,
// ... are its numbers. SplitMix alone mixes: every bit of the result depends on every bit of `z`.
// The same on every machine and in every process, unlike absl::Hash.
constexpr uint64_t kSplitMixStep = 0x9e3779b97f4a7c15;

constexpr uint64_t SplitMix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_BASE_SPLIT_MIX_H_
