// Every kernel of every table that this machine runs, bit for bit against the portable one. A plain
// program of the kernels alone, so that it can be cross-compiled and run in an emulator.
#include "tests/kernels/table_check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

#include "kernels/dtype.h"

namespace qwenserve {
namespace {

class Random {
 public:
  uint32_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 32);
  }
  float Float() { return static_cast<float>(static_cast<int32_t>(Next())) * 0x1p-30f; }
  std::vector<float> Floats(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = Float();
    return values;
  }
  template <typename T>
  std::vector<T> Bytes(int64_t count, uint32_t below) {
    std::vector<T> values(static_cast<size_t>(count));
    for (T& v : values) v = static_cast<T>(Next() % below);
    return values;
  }

 private:
  uint64_t state_ = 88172645463325252u;
};

int failures = 0;
int checks = 0;

void ExpectEqual(const char* what, const void* actual, const void* expected, size_t bytes) {
  ++checks;
  if (std::memcmp(actual, expected, bytes) == 0) return;
  if (++failures <= 20) std::printf("different: %s\n", what);
}

template <typename T>
void ExpectEqual(const char* what, const std::vector<T>& actual, const std::vector<T>& expected) {
  ExpectEqual(what, actual.data(), expected.data(), expected.size() * sizeof(T));
}

constexpr int64_t Up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// run(table) returns what the table made of the same inputs.
template <typename Run>
void Compare(const char* what, const KernelTable& table, Run run) {
  ExpectEqual(what, run(table), run(kPortableKernels));
}

void CheckLinear(const KernelTable& table, Random& random) {
  const char* const kNames[] = {"linear f32", "linear bf16", "linear f16"};
  for (int64_t out : {16, 75, 130}) {
    for (int64_t in : {17, 300}) {
      const int64_t count = Up(out, 16) * in;
      const std::vector<float> floats = random.Floats(count);
      std::vector<uint16_t> bf16, f16;
      for (float v : floats) {
        bf16.push_back(FloatToBf16(v));
        f16.push_back(FloatToF16(v));
      }
      const void* weights[] = {floats.data(), bf16.data(), f16.data()};
      const std::vector<float> bias = random.Floats(out);
      for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 12, 13, 31}) {
        const std::vector<float> x = random.Floats(rows * in);
        for (int f = 0; f < 3; ++f) {
          Compare(kNames[f], table, [&](const KernelTable& t) {
            std::vector<float> result(rows * out), scratch(kLinearScratchFloats);
            const LinearArgs args = {x.data(),     rows, weights[f],
                                     in,           out,  rows % 2 == 0 ? bias.data() : nullptr,
                                     result.data()};
            t.linear[f](args, 0, 1, scratch.data());
            t.linear[f](args, 1, Up(out, 16) / 16, scratch.data());
            return result;
          });
        }
      }
    }
  }
}

struct Rounded {
  std::vector<int8_t> codes;
  std::vector<float> scales, sums;
  std::vector<int32_t> code_sums;
  QuantActivations view;
};

Rounded Round(const KernelTable& table, const std::vector<float>& x, int64_t rows, int64_t in,
              const std::vector<int32_t>& order, int64_t group) {
  const int64_t packed = order.empty() ? Up(in, 32) : static_cast<int64_t>(order.size());
  Rounded r;
  r.codes.resize(rows * packed);
  r.scales.resize(rows * packed / 32);
  r.sums.resize(rows * ((packed + group - 1) / group));
  r.code_sums.resize(rows * packed / 32);
  r.view = {r.codes.data(), r.scales.data(), r.sums.data(), r.code_sums.data(), rows};
  const int64_t half = rows / 2;
  const QuantizeArgs args = {x.data(), in,    order.empty() ? nullptr : order.data(),
                             packed,   group, r.view};
  table.quantize_rows(args, 0, half);
  table.quantize_rows(args, half, rows);
  return r;
}

void CheckQuantize(const KernelTable& table, Random& random) {
  for (int64_t in : {32, 40, 300}) {
    for (int64_t group : {32, 128, 1024}) {
      for (bool ordered : {false, true}) {
        std::vector<int32_t> order;
        for (int32_t i = 0; ordered && i < Up(in, 32) + 32; ++i) {
          order.push_back(static_cast<int32_t>(random.Next() % (in + 8)) - 1);
        }
        std::vector<float> x = random.Floats(6 * in);
        for (int64_t i = 0; i < in; ++i) x[in + i] = 0;             // nothing
        for (int64_t i = 0; i < in; ++i) x[2 * in + i] *= 1e-32f;   // too small
        for (int64_t i = 0; i < in; ++i) x[3 * in + i] *= 1e37f;    // nearly too large
        for (int64_t i = 0; i < in; ++i) x[4 * in + i] = i * 0.5f;  // ties
        x[5 * in + 7] = INFINITY;
        const Rounded actual = Round(table, x, 6, in, order, group);
        const Rounded expected = Round(kPortableKernels, x, 6, in, order, group);
        ExpectEqual("quantize_rows codes", actual.codes, expected.codes);
        ExpectEqual("quantize_rows scales", actual.scales, expected.scales);
        ExpectEqual("quantize_rows code_sums", actual.code_sums, expected.code_sums);
        // The last row's sums may be NaN, whose bits nobody promises.
        for (size_t i = 0; i < expected.sums.size(); ++i) {
          if (i % 6 != 5) ExpectEqual("quantize_rows sums", &actual.sums[i], &expected.sums[i], 4);
        }
        x[7] = NAN;
        if (!std::isnan(Round(table, x, 1, in, {}, group).scales[0])) {
          ++failures;
          std::printf("quantize_rows loses a NaN\n");
        }
      }
    }
  }
}

void CheckQuantLinear(const KernelTable& table, Random& random) {
  for (int64_t out : {16, 33}) {
    for (int64_t in : {32, 96, 544}) {
      for (int64_t group : {32, 64, 128, 1024}) {
        const int64_t slots = Up(out, 16) * ((in + group - 1) / group);
        const auto data = random.Bytes<uint8_t>(Up(out, 16) * in, 256);
        auto scales = random.Bytes<uint16_t>(slots, 0x800);
        for (uint16_t& s : scales) s += 0x2000;
        const std::vector<float> bias = random.Floats(out);
        for (int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 70}) {
          const std::vector<float> x = random.Floats(rows * in);
          const Rounded rounded = Round(kPortableKernels, x, rows, in, {}, group);
          for (int f = 0; f < 4; ++f) {
            const auto zeros = random.Bytes<uint8_t>(slots, f % 2 == 0 ? 256 : 16);
            Compare(f % 2 == 0 ? "quant_linear int8" : "quant_linear int4", table,
                    [&](const KernelTable& t) {
                      std::vector<float> result(rows * out), scratch(kLinearScratchFloats);
                      const QuantLinearArgs args = {rounded.view,
                                                    data.data(),
                                                    scales.data(),
                                                    f < 2 ? nullptr : zeros.data(),
                                                    in,
                                                    group,
                                                    out,
                                                    rows % 2 == 0 ? bias.data() : nullptr,
                                                    result.data()};
                      t.quant_linear[f % 2](args, 0, 1, scratch.data());
                      t.quant_linear[f % 2](args, 1, Up(out, 16) / 16, scratch.data());
                      return result;
                    });
          }
        }
      }
    }
  }
}

// Sums of a block as large as they can be, which must not leave 16 bits anywhere on the way, and
// scales of every kind: subnormal, negative, the largest.
void CheckQuantLinearExtremes(const KernelTable& table) {
  constexpr int64_t kOut = 33, kIn = 96, kGroup = 64;
  const int64_t slots = Up(kOut, 16) * 2;
  std::vector<uint16_t> scales;
  for (int64_t i = 0; i < slots; ++i) {
    constexpr uint16_t kScales[] = {0x0001, 0x83ff, 0x0400, 0xbc00, 0x7bff, 0x0000};
    scales.push_back(kScales[i % 6]);
  }
  const std::vector<uint8_t> zeros(slots, 0);
  for (const uint8_t byte : {0x80, 0x7f, 0xff, 0x00}) {
    const std::vector<uint8_t> data(Up(kOut, 16) * kIn, byte);
    for (const float sign : {1.0f, -1.0f}) {
      for (const int64_t rows : {1, 2, 9, 30}) {
        const Rounded rounded =
            Round(kPortableKernels, std::vector<float>(rows * kIn, sign), rows, kIn, {}, kGroup);
        for (int f = 0; f < 4; ++f) {
          Compare("quant_linear at the limits", table, [&](const KernelTable& t) {
            std::vector<float> result(rows * kOut), scratch(kLinearScratchFloats);
            const QuantLinearArgs args = {
                rounded.view, data.data(), scales.data(), f < 2 ? nullptr : zeros.data(),
                kIn,          kGroup,      kOut,          nullptr,
                result.data()};
            t.quant_linear[f % 2](args, 0, 3, scratch.data());
            return result;
          });
        }
      }
    }
  }
}

struct Cache {
  std::vector<char> data;
  std::vector<int32_t> blocks;
  KvHeadArgs head;
};

constexpr int64_t kElementBytes[] = {4, 2, 1, 1};  // by KvFormat

// A cache of one head with all positions stored, by the table; qwen-int8 at random.
Cache FilledCache(const KernelTable& table, Random random, int format, int64_t dim,
                  int64_t positions) {
  const int64_t keys = dim * 16 * kElementBytes[format];
  const int64_t scales = keys + Up(dim, 16) * 16 * kElementBytes[format];
  const int64_t bytes = scales + 64 * static_cast<int64_t>(sizeof(float));
  const int64_t count = Up(positions, 16) / 16;
  Cache cache;
  cache.data.resize(count * bytes);
  for (int64_t b = 0; b < count; ++b) cache.blocks.push_back(static_cast<int32_t>(b * 7 % count));
  cache.head = {cache.data.data(), bytes, keys, scales};
  for (int64_t p = 0; p < positions; ++p) {
    char* block = cache.data.data() + cache.blocks[p / 16] * bytes;
    const std::vector<float> key = random.Floats(dim), value = random.Floats(dim);
    if (format < 3) {
      table.store_kv[format](key.data(), value.data(), dim, p % 16, block, cache.head);
      continue;
    }
    for (int64_t i = 0; i < scales; ++i) block[i] = static_cast<char>(random.Next());
    for (int64_t i = 0; i < 64; ++i) {
      const float v = i < 32 ? 0.01f : 128.0f;
      std::memcpy(block + scales + 4 * i, &v, 4);
    }
  }
  return cache;
}

std::vector<float> Attend(const KernelTable& t, const Cache& cache, int format, int64_t dim,
                          int64_t rows, int64_t heads, int64_t positions,
                          const std::vector<float>& q, bool parts) {
  const int64_t segments = Up(positions, kAttentionSegment) / kAttentionSegment;
  const int64_t queries = rows * heads;
  std::vector<float> out(queries * dim);
  std::vector<float> partials(segments * queries * (Up(dim, 16) + 2));
  std::vector<float> scratch(kMaxAttentionQueries * (3 * (dim + 32) + kAttentionSegment) +
                             128 * (dim + 16));
  AttentionArgs args = {.q = q.data(),
                        .q_row_stride = heads * dim,
                        .rows = rows,
                        .heads = heads,
                        .head_dim = dim,
                        .first_position = positions - rows,
                        .block_table = cache.blocks.data(),
                        .kv = cache.head,
                        .scale = 0.18f,
                        .segment_begin = 0,
                        .segment_end = segments,
                        .partials = parts ? partials.data() : nullptr,
                        .out = out.data(),
                        .out_row_stride = heads * dim,
                        .scratch = scratch.data()};
  t.attention[format](args);
  if (parts) t.merge_attention(args);
  return out;
}

void CheckAttention(const KernelTable& table, Random& random) {
  const char* const kNames[] = {"attention f32", "attention bf16", "attention int8",
                                "attention qwen-int8"};
  for (int format = 0; format < 4; ++format) {
    for (int64_t dim : {24, 64}) {
      for (int64_t positions : {1, 17, 300, 530}) {
        const Cache cache = FilledCache(table, random, format, dim, positions);
        const Cache expected = FilledCache(kPortableKernels, random, format, dim, positions);
        ExpectEqual("store_kv", cache.data, expected.data);
        for (auto [rows, heads] : {std::pair<int64_t, int64_t>{1, 1}, {1, 7}, {5, 2}, {40, 2}}) {
          if (rows > positions) continue;
          const std::vector<float> q = random.Floats(rows * heads * dim);
          for (bool parts : {false, true}) {
            Compare(kNames[format], table, [&](const KernelTable& t) {
              return Attend(t, expected, format, dim, rows, heads, positions, q, parts);
            });
          }
        }
      }
    }
  }
}

void CheckElementwise(const KernelTable& table, Random& random) {
  for (int64_t width : {5, 64, 128, 896, 900}) {
    const std::vector<float> x = random.Floats(width), y = random.Floats(width);
    const std::vector<float> weight = random.Floats(width);
    for (bool add : {false, true}) {
      Compare("rms_norm", table, [&](const KernelTable& t) {
        std::vector<float> residual = y, out(width);
        t.rms_norm(x.data(), width, add ? residual.data() : nullptr, weight.data(), 1e-6f,
                   out.data());
        out.insert(out.end(), residual.begin(), residual.end());
        return out;
      });
      if (width % 2 != 0) continue;
      Compare("norm_rope", table, [&](const KernelTable& t) {
        std::vector<float> head = x;
        t.norm_rope({head.data(), width, add ? weight.data() : nullptr, 1e-6f, y.data(), 0.9f});
        return head;
      });
    }
    Compare("silu_mul", table, [&](const KernelTable& t) {
      std::vector<float> out(width), gate = x;
      for (int64_t i = 0; i < width; ++i) gate[i] *= i % 3 == 0 ? 60.0f : 3.0f;
      t.silu_mul(gate.data(), y.data(), width, out.data());
      return out;
    });
  }
}

void CheckSampling(const KernelTable& table, Random& random) {
  for (int64_t count : {64, 200, 9001}) {
    std::vector<float> logits = random.Floats(count);
    for (float& v : logits) v *= 8;
    const float max = *std::max_element(logits.begin(), logits.end());
    logits[3] = -INFINITY;
    Compare("block_maxima", table, [&](const KernelTable& t) {
      std::vector<float> maxima(Up(count, kSampleBlock) / kSampleBlock + 1);
      maxima.back() = t.block_maxima(logits.data(), count, maxima.data()) ? 1 : 0;
      return maxima;
    });
    std::vector<float> p(count);
    Compare("weigh", table, [&](const KernelTable& t) {
      std::vector<int64_t> mass = {t.weigh(logits.data(), count, max, 0.7f, p.data())};
      for (float v : p) mass.push_back(static_cast<int64_t>(v * 0x1p60f));
      return mass;
    });
    for (double bound : {0.0, 0.5, 1.01, 30.0}) {
      Compare("race_next", table, [&](const KernelTable& t) {
        return std::vector<int64_t>{t.race_next(p.data(), count, 0x1234567812345678u, 77, bound)};
      });
    }
  }
}

}  // namespace
}  // namespace qwenserve

int main() {
  using namespace qwenserve;
  for (const KernelTable* table : TablesOfThisMachine()) {
    Random random;
    const int before = failures, checked = checks;
    CheckLinear(*table, random);
    CheckQuantize(*table, random);
    CheckQuantLinear(*table, random);
    CheckQuantLinearExtremes(*table);
    CheckAttention(*table, random);
    CheckElementwise(*table, random);
    CheckSampling(*table, random);
    std::printf("%s: %d of %d comparisons differ from portable\n", table->name, failures - before,
                checks - checked);
  }
  return failures == 0 && checks > 0 ? 0 : 1;
}
