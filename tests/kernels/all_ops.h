#ifndef QWENSERVE_TESTS_KERNELS_ALL_OPS_H_
#define QWENSERVE_TESTS_KERNELS_ALL_OPS_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "tests/kernels/attention_harness.h"
#include "tests/kernels/host_ops.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {

// EXPECT_EQ on floats would call -0 and 0 equal.
inline bool SameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}
inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && SameBits(a.data(), b.data(), static_cast<int64_t>(a.size()));
}
inline bool SameBits(const AttentionResult& a, const AttentionResult& b) {
  for (size_t s = 0; s < a.out.size(); ++s) {
    if (!SameBits(a.out[s], b.out[s]) || !SameBits(a.queries[s], b.queries[s])) return false;
  }
  return true;
}

// Runs every op on data large enough that all threads take part and returns all results. Leaves out
// products of more than max_work multiplications, and what the device does not have.
inline std::vector<float> RunAllOps(Backend& backend, int64_t max_work, bool bf16_linear = true) {
  Random random(11);
  HostOps ops(backend);
  std::vector<float> all;
  const auto append = [&all](const std::vector<float>& v) {
    all.insert(all.end(), v.begin(), v.end());
  };
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const HostMatrix matrix(random, dtype, 203, 384);
    const LinearWeight weight = matrix.Pack(backend);
    for (int64_t rows : {1, 2, 3, 5, 8, 13, 64}) {
      if ((dtype == DType::kBf16 && !bf16_linear) || rows * 384 * 203 > max_work) break;
      append(ops.Linear(random.Normals(rows * 384), rows, weight));
    }
    std::vector<int32_t> ids(64);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.Below(203));
    append(ops.Embed(ids, weight, 0));
  }
  for (const QuantizedShape& shape : QuantizedShapes(random, 203, 500, 64)) {
    const LinearWeight weight = *backend.PackQuantized(shape, RandomQuantizedRows(random, shape));
    for (int64_t rows : {1, 2, 9, 40}) {
      if (rows * 500 * 203 > max_work) break;
      const std::vector<float> x = random.Normals(rows * 500), bias = random.Normals(203);
      append(ops.Linear(x, rows, weight, bias));
    }
  }
  for (int64_t width : {5, 500, 3001}) {
    const std::vector<float> x = random.Normals(33 * width, 5.0f);
    std::vector<float> residual = random.Normals(33 * width);
    const std::vector<float> weight = random.Normals(width);
    append(ops.RmsNorm(x, 33, weight, 1e-6f));
    append(ops.AddRmsNorm(x, 33, &residual, weight, 1e-6f));
    append(residual);
    append(ops.SiluMul(random.Normals(66 * width, 30.0f), 33, width));
  }
  uint32_t seed = 20;
  for (const HeadLayout& heads : TestHeadLayouts()) {
    for (KvFormat format : kAllKvFormats) {
      const AttentionProblem problem(++seed, heads, format, {40, 3, 65});
      if (!backend.SupportsKv(format, heads).ok()) continue;
      const AttentionResult result = RunWhole(backend, problem);
      for (size_t s = 0; s < problem.lengths.size(); ++s) {
        append(result.out[s]);
        append(result.queries[s]);
      }
    }
  }
  // Across segments, in a batch that threads share by cutting the longest sequence.
  for (KvFormat format : kAllKvFormats) {
    const AttentionProblem problem(++seed, TestHeadLayouts()[3], format, {600, 10});
    if (!backend.SupportsKv(format, problem.heads).ok()) continue;
    AttentionRunner runner(backend, problem);
    runner.Run({{0, 0, 598}, {1, 0, 9}});
    runner.Run({{0, 598, 599}});
    runner.Run({{0, 599, 600}, {1, 9, 10}});
    append(runner.result().out[0]);
  }
  return all;
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_ALL_OPS_H_
