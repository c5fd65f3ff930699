#include "tests/kernels/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace qwenserve {
namespace {

float Element(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kBf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
}

int64_t Groups(const LinearWeight& weight) {
  return (weight.packed_inputs + weight.group_size - 1) / weight.group_size;
}

// scale * (code - zero) of a packed input.
double PackedElement(const LinearWeight& weight, int64_t row, int64_t packed) {
  const int64_t group = row * Groups(weight) + packed / weight.group_size;
  int zero = weight.format == WeightFormat::kInt8 ? 128 : 8;
  if (!weight.zeros.empty()) zero = weight.zeros.as<uint8_t>()[group];
  const int code = weight.data.as<uint8_t>()[row * weight.packed_inputs + packed];
  return static_cast<double>(F16ToFloat(weight.scales.as<uint16_t>()[group])) * (code - zero);
}

int64_t InputOf(const LinearWeight& weight, int64_t packed) {
  if (!weight.input_order.empty()) return weight.input_order.as<int32_t>()[packed];
  return packed < weight.in_features ? packed : -1;
}

float WeightElement(const LinearWeight& weight, int64_t row, int64_t column) {
  if (IsQuantized(weight.format)) {
    for (int64_t i = 0; i < weight.packed_inputs; ++i) {
      if (InputOf(weight, i) == column) return static_cast<float>(PackedElement(weight, row, i));
    }
    return 0.0f;
  }
  return Element(weight.data.data(), static_cast<DType>(weight.format),
                 row * weight.in_features + column);
}

// The inputs of a quantised product in packed order, rounded.
std::vector<double> RoundedInputs(const float* x, const LinearWeight& weight,
                                  InputRounding rounding) {
  std::vector<double> rounded(static_cast<size_t>(weight.packed_inputs));
  if (rounding != InputRounding::kCpu) {
    for (int64_t i = 0; i < weight.packed_inputs; ++i) {
      const int64_t input = InputOf(weight, i);
      rounded[i] = input < 0 ? 0.0f : x[input];
      if (rounding == InputRounding::kGpu) {
        rounded[i] = Bf16ToFloat(FloatToBf16(static_cast<float>(rounded[i])));
      }
    }
    return rounded;
  }
  for (int64_t block = 0; block < weight.packed_inputs; block += kQuantBlock) {
    float values[kQuantBlock], amax = 0;
    for (int64_t j = 0; j < kQuantBlock; ++j) {
      const int64_t input = InputOf(weight, block + j);
      values[j] = input < 0 ? 0.0f : x[input];
      amax = std::max(amax, std::fabs(values[j]));
    }
    if (amax == 0) continue;
    for (int64_t j = 0; j < kQuantBlock; ++j) {
      rounded[block + j] = std::nearbyint(values[j] * (127.0f / amax)) * (amax / 127.0f);
    }
  }
  return rounded;
}

void QuantizedLinearRow(const float* x, const LinearWeight& weight, const float* bias,
                        InputRounding rounding, float* out) {
  const std::vector<double> inputs = RoundedInputs(x, weight, rounding);
  for (int64_t o = 0; o < weight.out_features; ++o) {
    double sum = bias == nullptr ? 0.0 : bias[o];
    for (int64_t i = 0; i < weight.packed_inputs; ++i)
      sum += inputs[i] * PackedElement(weight, o, i);
    out[o] = static_cast<float>(sum);
  }
}

// What is left of x after a round trip through the int8 cache: codes amax / 127 apart.
void RoundToInt8(const float* x, int64_t dim, float* out) {
  float amax = 0;
  for (int64_t d = 0; d < dim; ++d) amax = std::fmax(amax, std::fabs(x[d]));
  for (int64_t d = 0; d < dim; ++d) {
    out[d] = amax < 1e-30f ? 0.0f : std::nearbyint(x[d] * (127.0f / amax)) * (amax / 127.0f);
  }
}

// Likewise through Qwen's own: one scale and zero point for all of x, codes cut off.
void RoundToQwenInt8(std::vector<float>& x) {
  const float low = *std::min_element(x.begin(), x.end());
  const float high = *std::max_element(x.begin(), x.end());
  const float scale = low == high ? 1.0f : (high - low) / 255.0f;
  const float zero = 0.0f - low / scale;
  for (float& v : x) v = (std::trunc(std::clamp(v / scale + zero, 0.0f, 255.0f)) - zero) * scale;
}

// One layer's cache, element by element: bf16 as such, all other formats as the floats that they
// stand for.
class KvView {
 public:
  KvView(const AttentionBatch& batch, const HeadLayout& heads, const KvLayer& kv)
      : batch_(batch), heads_(heads), kv_(kv) {}

  float Get(int64_t sequence, int64_t position, int64_t head, int64_t d, bool value) const {
    return Element(kv_.data, kv_.format == KvFormat::kBf16 ? DType::kBf16 : DType::kF32,
                   Index(sequence, position, head, d, value));
  }

  // Stores the keys, or values, of one head for the rows of one sequence's part of the batch.
  void Store(int64_t sequence, int64_t head, bool value, const float* x, int64_t stride) {
    const int64_t dim = heads_.head_dim, begin = batch_.row_starts[sequence];
    const int64_t rows = batch_.row_starts[sequence + 1] - begin;
    std::vector<float> kept(rows * dim);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = x + (begin + r) * stride;
      std::copy(row, row + dim, &kept[r * dim]);
      if (kv_.format == KvFormat::kInt8) RoundToInt8(row, dim, &kept[r * dim]);
    }
    if (kv_.format == KvFormat::kQwenInt8 && rows > 0) RoundToQwenInt8(kept);
    for (int64_t i = 0; i < rows * dim; ++i) {
      const int64_t index =
          Index(sequence, batch_.positions[begin + i / dim], head, i % dim, value);
      if (kv_.format == KvFormat::kBf16) {
        static_cast<uint16_t*>(kv_.data)[index] = FloatToBf16(kept[i]);
      } else {
        static_cast<float*>(kv_.data)[index] = kept[i];
      }
    }
  }

 private:
  int64_t Index(int64_t sequence, int64_t position, int64_t head, int64_t d, bool value) const {
    const int64_t number = position / kKvBlockSize;
    QS_CHECK(number < batch_.max_blocks);
    const int64_t block = batch_.block_tables[sequence * batch_.max_blocks + number];
    QS_CHECK(block >= 0 && block < kv_.num_blocks);
    const int64_t half = block * 2 + (value ? 1 : 0);
    const int64_t slot =
        (half * heads_.num_kv_heads + head) * kKvBlockSize + position % kKvBlockSize;
    return slot * heads_.head_dim + d;
  }

  const AttentionBatch& batch_;
  const HeadLayout& heads_;
  const KvLayer& kv_;
};

void NormRopeHead(float* head, int64_t dim, const float* norm, double epsilon, const float* cos_sin,
                  double scale) {
  std::vector<double> x(head, head + dim);
  if (norm != nullptr) {
    double squares = 0;
    for (double v : x) squares += v * v;
    const double rms = std::sqrt(squares / static_cast<double>(dim) + epsilon);
    for (int64_t d = 0; d < dim; ++d) x[d] = x[d] / rms * norm[d];
  }
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double cos = cos_sin[2 * i], sin = cos_sin[2 * i + 1];
    head[i] = static_cast<float>((x[i] * cos - x[i + half] * sin) * scale);
    head[i + half] = static_cast<float>((x[i + half] * cos + x[i] * sin) * scale);
  }
}

}  // namespace

float ReferenceBackend::Activation(double value) const {
  const float rounded = static_cast<float>(value);
  return rounding_ == InputRounding::kGpu ? Bf16ToFloat(FloatToBf16(rounded)) : rounded;
}

absl::StatusOr<Buffer> ReferenceBackend::Allocate(size_t bytes) {
  void* data = std::aligned_alloc(64, (bytes + 64) / 64 * 64);
  if (data == nullptr) return absl::ResourceExhaustedError("no memory");
  std::memset(data, 0, bytes);
  return Buffer(data, bytes, [](void* pointer) { std::free(pointer); });
}

void ReferenceBackend::CopyToDevice(const void* host, size_t bytes, void* device) {
  if (bytes != 0) std::memcpy(device, host, bytes);
}

void ReferenceBackend::CopyToHost(const void* device, size_t bytes, void* host) {
  if (bytes != 0) std::memcpy(host, device, bytes);
}

absl::StatusOr<LinearWeight> ReferenceBackend::PackLinear(absl::Span<const RowBlock> blocks,
                                                          int64_t in_features) {
  QS_CHECK(!blocks.empty());
  LinearWeight weight;
  weight.format = static_cast<WeightFormat>(blocks[0].dtype);
  weight.in_features = in_features;
  for (const RowBlock& block : blocks) weight.out_features += block.rows;
  const size_t element = DTypeBytes(blocks[0].dtype);
  absl::StatusOr<Buffer> data =
      Allocate(static_cast<size_t>(weight.out_features * in_features) * element);
  if (!data.ok()) return data.status();
  weight.data = *std::move(data);
  char* to = weight.data.as<char>();
  for (const RowBlock& block : blocks) {
    QS_CHECK(block.dtype == blocks[0].dtype);
    const char* from = static_cast<const char*>(block.data);
    for (int64_t r = 0; r < block.rows; ++r) {
      const size_t bytes = static_cast<size_t>(in_features) * element;
      std::memcpy(to, from + static_cast<size_t>(r * block.row_stride) * element, bytes);
      to += bytes;
    }
  }
  return weight;
}

absl::StatusOr<LinearWeight> ReferenceBackend::PackQuantized(const QuantizedShape& shape,
                                                             const QuantizedRowSource& rows) {
  LinearWeight weight;
  weight.format = shape.format;
  weight.out_features = shape.out_features;
  weight.in_features = shape.in_features;
  weight.packed_inputs = shape.packed_inputs();
  weight.group_size = shape.group_size;
  const size_t count = static_cast<size_t>(shape.out_features * shape.groups());
  weight.data = *Allocate(static_cast<size_t>(shape.out_features * weight.packed_inputs));
  weight.scales = *Allocate(count * sizeof(uint16_t));
  if (shape.has_zeros) weight.zeros = *Allocate(count);
  if (!shape.input_order.empty()) {
    weight.input_order = *Allocate(shape.input_order.size() * sizeof(int32_t));
    std::copy(shape.input_order.begin(), shape.input_order.end(), weight.input_order.as<int32_t>());
  }
  const absl::Status status = rows.ReadRows(
      0, shape.out_features,
      {weight.data.as<uint8_t>(), weight.scales.as<uint16_t>(), weight.zeros.as<uint8_t>()});
  if (!status.ok()) return status;
  return weight;
}

size_t ReferenceBackend::KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const {
  return static_cast<size_t>(2 * heads.kv_width() * kKvBlockSize) *
         (format == KvFormat::kBf16 ? 2 : 4);
}

void ReferenceBackend::TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) {
  for (int64_t r = 0; r < rows; ++r) {
    if (ids[r] < 0) ids[r] = std::max(drawn[-1 - ids[r]], 0);
  }
}

void ReferenceBackend::Embed(const int32_t* ids, int64_t rows, const LinearWeight& table,
                             int64_t first_id, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = ids[r] - first_id;
    const bool here = row >= 0 && row < table.out_features;
    for (int64_t c = 0; c < table.in_features; ++c) {
      out[r * table.in_features + c] = here ? WeightElement(table, row, c) : 0.0f;
    }
  }
}

void ReferenceBackend::RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight,
                               float epsilon, void* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* in = x + r * width;
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(in[i]) * in[i];
    const double rms = std::sqrt(squares / static_cast<double>(width) + epsilon);
    for (int64_t i = 0; i < width; ++i) {
      static_cast<float*>(out)[r * width + i] = Activation(in[i] / rms * weight[i]);
    }
  }
}

void ReferenceBackend::AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual,
                                  const float* weight, float epsilon, void* out) {
  for (int64_t i = 0; i < rows * width; ++i) residual[i] += x[i];
  RmsNorm(residual, rows, width, weight, epsilon, out);
}

void ReferenceBackend::Linear(const void* input, int64_t rows, const LinearWeight& weight,
                              const float* bias, float* out) {
  const float* x = static_cast<const float*>(input);
  const int64_t k = weight.in_features, n = weight.out_features;
  if (IsQuantized(weight.format)) {
    for (int64_t r = 0; r < rows; ++r) {
      QuantizedLinearRow(x + r * k, weight, bias, rounding_, out + r * n);
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < n; ++o) {
      double sum = bias == nullptr ? 0.0 : bias[o];
      for (int64_t i = 0; i < k; ++i) {
        sum += static_cast<double>(x[r * k + i]) * WeightElement(weight, o, i);
      }
      out[r * n + o] = static_cast<float>(sum);
    }
  }
}

void ReferenceBackend::NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads,
                                       const float* q_norm, const float* k_norm, float epsilon,
                                       absl::Span<const RopeTable> rope, float* qkv,
                                       const KvLayer& kv) {
  KvView cache(batch, heads, kv);
  const int64_t dim = heads.head_dim;
  for (int64_t row = 0; row < batch.num_rows; ++row) {
    const int64_t position = batch.positions[row];
    if (position < 0) continue;
    const RopeTable& table = rope[batch.rope_tables == nullptr ? 0 : batch.rope_tables[row]];
    QS_CHECK(position < table.max_positions);
    const float* cos_sin = table.cos_sin + position * dim;
    const double scale = batch.query_scales == nullptr ? 1.0 : batch.query_scales[row];
    float* query = qkv + row * heads.qkv_width();
    float* key = query + heads.query_width();
    for (int64_t h = 0; h < heads.num_query_heads; ++h) {
      NormRopeHead(query + h * dim, dim, q_norm, epsilon, cos_sin, scale);
    }
    for (int64_t h = 0; h < heads.num_kv_heads; ++h) {
      NormRopeHead(key + h * dim, dim, k_norm, epsilon, cos_sin, 1.0);
    }
  }
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    if (batch.positions[batch.row_starts[s]] < 0) continue;
    for (int64_t h = 0; h < heads.num_kv_heads; ++h) {
      const float* keys = qkv + heads.query_width() + h * dim;
      cache.Store(s, h, false, keys, heads.qkv_width());
      cache.Store(s, h, true, keys + heads.kv_width(), heads.qkv_width());
    }
  }
}

void ReferenceBackend::PagedAttention(const AttentionBatch& batch, const HeadLayout& heads,
                                      const float* qkv, const KvLayer& kv, void* out) {
  const KvView cache(batch, heads, kv);
  const int64_t dim = heads.head_dim;
  for (int64_t row = 0; row < batch.num_rows; ++row) {
    const int64_t sequence = batch.sequences[row], length = batch.positions[row] + 1;
    for (int64_t h = 0; h < heads.num_query_heads; ++h) {
      const int64_t kv_head = (h + heads.query_offset) / heads.queries_per_kv;
      const float* q = qkv + row * heads.qkv_width() + h * dim;
      std::vector<double> weights(length);
      double max = -INFINITY, total = 0;
      for (int64_t t = 0; t < length; ++t) {
        double score = 0;
        for (int64_t d = 0; d < dim; ++d) {
          score += static_cast<double>(q[d]) * cache.Get(sequence, t, kv_head, d, false);
        }
        weights[t] = score / std::sqrt(static_cast<double>(dim));
        max = std::fmax(max, weights[t]);
      }
      for (double& w : weights) total += w = std::exp(w - max);
      for (int64_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (int64_t t = 0; t < length; ++t) {
          sum += weights[t] * cache.Get(sequence, t, kv_head, d, true);
        }
        static_cast<float*>(out)[row * heads.query_width() + h * dim + d] =
            length == 0 ? 0.0f : Activation(sum / total);
      }
    }
  }
}

void ReferenceBackend::SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) {
      const double gate = gate_up[r * 2 * width + i];
      static_cast<float*>(out)[r * width + i] =
          Activation(gate / (1 + std::exp(-gate)) * gate_up[r * 2 * width + width + i]);
    }
  }
}

void ReferenceBackend::GatherRows(const void* input, int64_t width, const int32_t* rows,
                                  int64_t num_rows, void* output) {
  const float* x = static_cast<const float*>(input);
  float* out = static_cast<float*>(output);
  for (int64_t i = 0; i < num_rows; ++i) {
    for (int64_t c = 0; c < width; ++c) out[i * width + c] = x[rows[i] * width + c];
  }
}

}  // namespace qwenserve
