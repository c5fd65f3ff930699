#include "engine/loader/content_hash.h"

#include <cstring>

namespace qwenserve {
namespace {

constexpr size_t kBlockBytes = 64;

void Mix(const uint8_t* block, LaneHash::Lanes& lanes) {
  for (size_t i = 0; i < lanes.size(); ++i) {
    uint64_t word;
    std::memcpy(&word, block + i * sizeof word, sizeof word);
    const uint64_t mixed = (lanes[i] ^ word) * 0x9e3779b97f4a7c15u;
    lanes[i] = mixed ^ mixed >> 29;
  }
}

}  // namespace

void LaneHash::Update(const void* data, size_t bytes) {
  const auto* next = static_cast<const uint8_t*>(data);
  Lanes lanes = lanes_;  // in registers: the bytes could be the object's own, for all one knows
  for (; bytes >= kBlockBytes; next += kBlockBytes, bytes -= kBlockBytes) Mix(next, lanes);
  if (bytes > 0) {
    uint8_t block[kBlockBytes] = {};
    std::memcpy(block, next, bytes);
    Mix(block, lanes);
  }
  lanes_ = lanes;
}

}  // namespace qwenserve
