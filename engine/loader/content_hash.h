#ifndef QWENSERVE_ENGINE_LOADER_CONTENT_HASH_H_
#define QWENSERVE_ENGINE_LOADER_CONTENT_HASH_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace qwenserve {

// A hash of many gigabytes at the speed of memory, to tell checkpoints apart; no defence against
// somebody who looks for a collision. Eight lanes take the 64 bit words in turn (little endian, the
// tail filled up with zeros): lane = (lane ^ word) * odd constant, then lane ^= lane >> 29. Each
// step is a bijection of the lane, so two inputs of one length that differ in a single word always
// differ in the result.
class LaneHash {
 public:
  using Lanes = std::array<uint64_t, 8>;

  // In pieces of multiples of 64 bytes, but for the last one.
  void Update(const void* data, size_t bytes);
  const Lanes& lanes() const { return lanes_; }

 private:
  Lanes lanes_ = {1, 2, 3, 4, 5, 6, 7, 8};
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_CONTENT_HASH_H_
