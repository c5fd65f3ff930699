#include "kernels/cuda/simt/warp_ops.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/dtype.h"

namespace qwenserve::simt {
namespace {

const MatrixPayload& Matrix(void* const payloads[kWarpSize], int lane) {
  return *static_cast<const MatrixPayload*>(payloads[lane]);
}

uint16_t Element(const void* row, int column) {
  uint16_t value;
  std::memcpy(&value, static_cast<const char*>(row) + 2 * column, sizeof(value));
  return value;
}

void LoadMatrices(void* const payloads[kWarpSize], int matrices, bool transposed) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int high = lane / 4, low = lane % 4 * 2;
    for (int m = 0; m < matrices; ++m) {
      uint32_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int row = transposed ? low + i : high;
        const int column = transposed ? high : low + i;
        pair[i] = Element(Matrix(payloads, 8 * m + row).row, column);
      }
      Matrix(payloads, lane).r[m] = pair[0] | pair[1] << 16;
    }
  }
}

float Half(uint32_t pair, int index) {
  return Bf16ToFloat(static_cast<uint16_t>(pair >> (16 * index)));
}

// To nearest even from a double. A float in between would round twice: it is made odd instead of
// nearest, which keeps on which side of the middle the value is.
uint16_t RoundToBf16(double value) {
  if (value != value) return 0x7fff;
  float f = static_cast<float>(value);
  if (static_cast<double>(f) != value && std::isfinite(f)) {
    if (std::fabs(static_cast<double>(f)) > std::fabs(value)) f = std::nextafter(f, 0.0f);
    f = std::bit_cast<float>(std::bit_cast<uint32_t>(f) | 1u);
  }
  return FloatToBf16(f);
}

uint16_t FmaOne(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);  // exact
  double sum = product + static_cast<double>(c);
  if (std::isfinite(sum)) {
    // What the sum lost, exactly (two-sum); it makes the sum odd, as above.
    const double part = sum - product;
    const double lost = (product - (sum - part)) + (static_cast<double>(c) - part);
    if (lost != 0) {
      if ((lost > 0) != (sum > 0)) sum = std::nextafter(sum, 0.0);
      sum = std::bit_cast<double>(std::bit_cast<uint64_t>(sum) | 1u);
    }
  }
  return RoundToBf16(sum);
}

}  // namespace

void ResolveBallot(void* const payloads[kWarpSize]) {
  uint32_t mask = 0;
  for (int i = 0; i < kWarpSize; ++i) {
    mask |= static_cast<uint32_t>(static_cast<const BallotPayload*>(payloads[i])->predicate) << i;
  }
  for (int i = 0; i < kWarpSize; ++i) static_cast<BallotPayload*>(payloads[i])->result = mask;
}

void ResolveLoadMatrix4(void* const payloads[kWarpSize]) { LoadMatrices(payloads, 4, false); }
void ResolveLoadMatrix4Transposed(void* const payloads[kWarpSize]) {
  LoadMatrices(payloads, 4, true);
}
void ResolveLoadMatrix2(void* const payloads[kWarpSize]) { LoadMatrices(payloads, 2, false); }

void LoadMatrix(const Meeting& meeting, uint32_t* r, const void* row, bool gives_address,
                Where where) {
  if (gives_address) CheckShared(row, 16, where);
  MatrixPayload payload = {r, row};
  current_thread->block->Meet(meeting, &payload, where);
}

void ResolveMmaBf16(void* const payloads[kWarpSize]) {
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& p = *static_cast<const MmaPayload*>(payloads[lane]);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      a[g][t + i] = Half(p.a[0], i);
      a[g + 8][t + i] = Half(p.a[1], i);
      a[g][t + 8 + i] = Half(p.a[2], i);
      a[g + 8][t + 8 + i] = Half(p.a[3], i);
      b[t + i][g] = Half(p.b[0], i);
      b[t + 8 + i][g] = Half(p.b[1], i);
      d[g][t + i] = p.d[i];
      d[g + 8][t + i] = p.d[2 + i];
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& p = *static_cast<const MmaPayload*>(payloads[lane]);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      p.d[i] = d[g][t + i];
      p.d[2 + i] = d[g + 8][t + i];
    }
  }
}

uint32_t FmaPair(uint32_t a, uint32_t b, uint32_t c) {
  const uint32_t low = FmaOne(Half(a, 0), Half(b, 0), Half(c, 0));
  const uint32_t high = FmaOne(Half(a, 1), Half(b, 1), Half(c, 1));
  return low | high << 16;
}

}  // namespace qwenserve::simt
