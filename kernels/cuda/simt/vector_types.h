#ifndef QWENSERVE_KERNELS_CUDA_SIMT_VECTOR_TYPES_H_
#define QWENSERVE_KERNELS_CUDA_SIMT_VECTOR_TYPES_H_

#include <cstdint>

namespace qwenserve {

// 16 bytes: what a thread loads or stores at once.
struct alignas(16) Word4 {
  uint32_t x = 0, y = 0, z = 0, w = 0;
};
struct alignas(8) Word2 {
  uint32_t x = 0, y = 0;
};
struct alignas(16) Float4 {
  float x = 0, y = 0, z = 0, w = 0;
};
struct alignas(8) Float2 {
  float x = 0, y = 0;
};

// Position of a block in the grid.
struct GridIndex {
  uint32_t x = 0, y = 0, z = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SIMT_VECTOR_TYPES_H_
