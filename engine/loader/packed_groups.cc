#include "engine/loader/packed_groups.h"

#include <algorithm>

#include "engine/loader/packed_words.h"
#include "engine/loader/tensor_errors.h"
#include "kernels/dtype.h"

namespace qwenserve {

int32_t PackedGroups::Zero(int64_t group, int64_t output) const {
  const auto* words =
      static_cast<const uint32_t*>(tensors_.qzeros->data) + group * tensors_.qzeros->shape[1];
  const int64_t index = interleaved_ ? output / 8 * 8 + kAwqPlace[output % 8] : output;
  return PackedNumber(words, index, bits_) + added_;
}

bool PackedGroups::HasZeros(Range rows) const {
  const int32_t middle = 1 << (bits_ - 1);
  const int64_t per_word = 32 / bits_, width = tensors_.qzeros->shape[1];
  uint32_t symmetric = 0;  // a word of which every number says the middle
  for (int64_t i = 0; i < 32; i += bits_) symmetric |= static_cast<uint32_t>(middle - added_) << i;
  // Whole words where rows begin and end with one.
  const int64_t first = (rows.begin + per_word - 1) / per_word, last = rows.end / per_word;
  for (int64_t g = 0; g < tensors_.scales->shape[0]; ++g) {
    const auto* words = static_cast<const uint32_t*>(tensors_.qzeros->data) + g * width;
    for (int64_t w = first; w < last; ++w) {
      if (words[w] != symmetric) return true;
    }
    for (int64_t o = rows.begin; o < std::min(rows.end, first * per_word); ++o) {
      if (Zero(g, o) != middle) return true;
    }
    for (int64_t o = std::max(rows.begin, last * per_word); o < rows.end; ++o) {
      if (Zero(g, o) != middle) return true;
    }
  }
  return false;
}

absl::Status PackedGroups::Read(Range rows, int64_t first, int64_t last, int64_t num_groups,
                                const MatrixRows& out) const {
  const auto* scales = static_cast<const uint16_t*>(tensors_.scales->data);
  for (int64_t g = first; g <= last; ++g) {
    for (int64_t o = rows.begin; o < rows.end; ++o) {
      const int64_t slot = (o - rows.begin) * num_groups + g;
      const uint16_t scale = scales[g * outputs() + o];
      if ((scale & 0x7c00u) == 0x7c00u) {
        return TensorError(*tensors_.scales, "is ", F16ToFloat(scale), " at group ", g, ", output ",
                           o);
      }
      const int32_t zero = Zero(g, o);
      if (zero >= 1 << bits_) {
        return TensorError(*tensors_.qzeros, "has zero point ", zero, " at group ", g, ", output ",
                           o, ", beyond ", bits_, " bits");
      }
      out.scales[slot] = scale;
      out.zeros[slot] = static_cast<uint8_t>(zero);
    }
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
