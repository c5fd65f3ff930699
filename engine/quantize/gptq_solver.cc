#include "engine/quantize/gptq_solver.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/cholesky.h"
#include "engine/quantize/matmul.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

// Columns that are rounded before the columns behind them learn of it.
constexpr int64_t kLazyColumns = 128;
constexpr int64_t kTaskRows = 32;
constexpr double kMaxDamping = 1.0;

// What the rounding of all rows shares.
struct Problem {
  const GptqOptions& options;
  int64_t width = 0;
  const float* upper = nullptr;    // U of InvertToUpperCholesky
  const int64_t* order = nullptr;  // original column of the column worked on
  std::vector<float> importance;   // [width] 1 / U_jj^2: what an error in column j costs
};

// Rounds columns begin..end of one row; errors [end - begin] is (weight - value) / U_jj.
double RoundColumns(const Problem& problem, int64_t begin, int64_t end, float* row, float* errors,
                    uint16_t* scales, GroupScale& scale, uint8_t* codes) {
  const int zero = 1 << (problem.options.bits - 1);
  const int64_t group_size = problem.options.group_size;
  double loss = 0;
  for (int64_t j = begin; j < end; ++j) {
    if (j % group_size == 0) {
      const int64_t count = std::min(group_size, problem.width - j);
      scale = ChooseScale(row + j, problem.importance.data() + j, count, problem.options.bits);
      scales[j / group_size] = scale.bits;
    }
    const float* upper = problem.upper + j * problem.width;
    const int code = scale.Code(row[j], zero);
    const float error = (row[j] - scale.Value(code, zero)) / upper[j];
    codes[problem.order[j]] = static_cast<uint8_t>(code);
    errors[j - begin] = error;
    loss += double{error} * error;
    for (int64_t k = j + 1; k < end; ++k) row[k] -= error * upper[k];
  }
  return loss;
}

// All columns of `rows` rows at `weights`, which it uses up. The loss is that of the outputs.
double RoundRows(const Problem& problem, int64_t rows, float* weights, uint16_t* scales,
                 uint8_t* codes) {
  const int64_t width = problem.width;
  const int64_t groups = (width + problem.options.group_size - 1) / problem.options.group_size;
  std::vector<float> errors(static_cast<size_t>(rows * kLazyColumns));
  std::vector<GroupScale> current(static_cast<size_t>(rows));
  double loss = 0;
  for (int64_t begin = 0; begin < width; begin += kLazyColumns) {
    const int64_t end = std::min(begin + kLazyColumns, width);
    for (int64_t r = 0; r < rows; ++r) {
      loss +=
          RoundColumns(problem, begin, end, weights + r * width, errors.data() + r * kLazyColumns,
                       scales + r * groups, current[r], codes + r * width);
    }
    AddProduct({rows, width - end, end - begin}, -1.0f, {errors.data(), kLazyColumns, 1},
               {problem.upper + begin * width + end, width, 1}, weights + end, width);
  }
  return loss;
}

// Sum of (weight - quantised weight)^2 over rows of the problem's column order.
double SquaredDistance(const Problem& problem, int64_t rows, const float* weights,
                       const uint16_t* scales, const uint8_t* codes) {
  const int64_t groups =
      (problem.width + problem.options.group_size - 1) / problem.options.group_size;
  const int zero = 1 << (problem.options.bits - 1);
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < problem.width; ++j) {
      const float scale = F16ToFloat(scales[r * groups + j / problem.options.group_size]);
      const int code = codes[r * problem.width + problem.order[j]] - zero;
      const double rest = weights[r * problem.width + j] - scale * static_cast<float>(code);
      sum += rest * rest;
    }
  }
  return sum;
}

// h with rows and columns in `order`.
std::vector<float> Permuted(const std::vector<float>& h, const std::vector<int64_t>& order) {
  const int64_t width = static_cast<int64_t>(order.size());
  std::vector<float> result(h.size());
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j < width; ++j) result[i * width + j] = h[order[i] * width + order[j]];
  }
  return result;
}

void PermuteRow(const std::vector<int64_t>& order, float* row, std::vector<float>& scratch) {
  scratch.assign(row, row + order.size());
  for (size_t j = 0; j < order.size(); ++j) row[j] = scratch[order[j]];
}

double MeanDiagonal(const std::vector<float>& h, int64_t width) {
  double mean = 0;
  for (int64_t i = 0; i < width; ++i) mean += h[i * (width + 1)] / static_cast<double>(width);
  return mean == 0 ? 1 : mean;  // 0: nothing was ever active, so all is rounded to nearest
}

// U for h + damping * mean diagonal.
absl::StatusOr<std::vector<float>> Factor(ThreadPool& pool, std::vector<float> h, int64_t width,
                                          double* damping) {
  const double mean = MeanDiagonal(h, width);
  std::vector<float> diagonal(static_cast<size_t>(width));
  for (int64_t i = 0; i < width; ++i) diagonal[i] = h[i * (width + 1)];
  while (true) {
    for (int64_t i = 0; i < width; ++i) {
      h[i * (width + 1)] = static_cast<float>(diagonal[i] + *damping * mean);
    }
    std::vector<float> upper = h;
    const absl::Status status = InvertToUpperCholesky(pool, upper.data(), width);
    if (status.ok()) return upper;
    if (*damping >= kMaxDamping) {
      return absl::FailedPreconditionError(absl::StrCat("the Hessian of the calibration inputs is ",
                                                        status.message(), ", even with damping ",
                                                        *damping));
    }
    *damping = std::min(*damping * 10, kMaxDamping);
  }
}

absl::Status CheckScales(const QuantizedMatrix& matrix) {
  for (size_t i = 0; i < matrix.scales.size(); ++i) {
    if (std::isfinite(F16ToFloat(matrix.scales[i]))) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("row ", i / matrix.groups, ", group ", i % matrix.groups,
                     ": weights are too large for a scale in fp16, at most 65504"));
  }
  return absl::OkStatus();
}

absl::Status CheckWeights(const std::vector<float>& weights, int64_t width) {
  for (size_t i = 0; i < weights.size(); ++i) {
    if (std::isfinite(weights[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("weight [", i / width, ", ", i % width, "] is ", weights[i]));
  }
  return absl::OkStatus();
}

QuantizedMatrix EmptyMatrix(int64_t out_features, int64_t in_features, const GptqOptions& options) {
  QuantizedMatrix matrix;
  matrix.bits = options.bits;
  matrix.out_features = out_features;
  matrix.in_features = in_features;
  matrix.groups = (in_features + options.group_size - 1) / options.group_size;
  matrix.codes.resize(static_cast<size_t>(out_features * in_features));
  matrix.scales.resize(static_cast<size_t>(out_features * matrix.groups));
  matrix.group_of.resize(static_cast<size_t>(in_features));
  for (int64_t i = 0; i < in_features; ++i) {
    matrix.group_of[i] = static_cast<int32_t>(i / options.group_size);
  }
  return matrix;
}

}  // namespace

absl::Status CheckGptqOptions(const GptqOptions& options) {
  if (options.bits != 4 && options.bits != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits is ", options.bits, "; the format has 4 and 8"));
  }
  const int64_t group = options.group_size;
  if (group != 32 && group != 64 && group != 128) {  // what the engine loads
    return absl::InvalidArgumentError(
        absl::StrCat("group size is ", group, "; allowed are 32, 64 and 128"));
  }
  if (!(options.damping > 0 && options.damping <= kMaxDamping)) {
    return absl::InvalidArgumentError(
        absl::StrCat("damping is ", options.damping, "; allowed is above 0 up to ", kMaxDamping));
  }
  return absl::OkStatus();
}

absl::StatusOr<GptqResult> SolveGptq(ThreadPool& pool, std::vector<float> weights,
                                     int64_t out_features, std::vector<float> hessian,
                                     const GptqOptions& options) {
  QS_RETURN_IF_ERROR(CheckGptqOptions(options));
  const int64_t width = static_cast<int64_t>(weights.size()) / out_features;
  QS_RETURN_IF_ERROR(CheckWeights(weights, width));
  GptqResult result;
  result.matrix = EmptyMatrix(out_features, width, options);
  const double energy = OutputEnergy(pool, weights.data(), out_features, hessian.data(), width);

  std::vector<int64_t> order(static_cast<size_t>(width));
  std::iota(order.begin(), order.end(), 0);
  if (options.act_order) {
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return hessian[a * (width + 1)] > hessian[b * (width + 1)];
    });
    hessian = Permuted(hessian, order);
    for (int64_t j = 0; j < width; ++j) {
      result.matrix.group_of[order[j]] = static_cast<int32_t>(j / options.group_size);
    }
  }
  result.damping = options.damping;
  const double mean = MeanDiagonal(hessian, width);
  QS_ASSIGN_OR_RETURN(const std::vector<float> upper,
                      Factor(pool, std::move(hessian), width, &result.damping));
  Problem problem{options, width, upper.data(), order.data(), {}};
  for (int64_t j = 0; j < width; ++j) {
    const float diagonal = upper[j * (width + 1)];
    problem.importance.push_back(1.0f / (diagonal * diagonal));
  }
  const int64_t tasks = (out_features + kTaskRows - 1) / kTaskRows;
  std::vector<double> losses(static_cast<size_t>(tasks));
  ParallelTasks(pool, tasks, [&](int64_t task) {
    const int64_t begin = task * kTaskRows, rows = std::min(kTaskRows, out_features - begin);
    std::vector<float> scratch;
    for (int64_t r = begin; options.act_order && r < begin + rows; ++r) {
      PermuteRow(order, weights.data() + r * width, scratch);
    }
    float* part = weights.data() + begin * width;
    const std::vector<float> before(part, part + rows * width);
    uint16_t* scales = result.matrix.scales.data() + begin * result.matrix.groups;
    uint8_t* codes = result.matrix.codes.data() + begin * width;
    losses[task] = RoundRows(problem, rows, part, scales, codes);
    // That was the loss by the damped Hessian.
    losses[task] -=
        result.damping * mean * SquaredDistance(problem, rows, before.data(), scales, codes);
  });
  QS_RETURN_IF_ERROR(CheckScales(result.matrix));
  const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  result.relative_error = energy > 0 ? loss / energy : 0;
  return result;
}

absl::StatusOr<QuantizedMatrix> RoundToNearest(const std::vector<float>& weights,
                                               int64_t out_features, const GptqOptions& options) {
  QS_RETURN_IF_ERROR(CheckGptqOptions(options));
  const int64_t width = static_cast<int64_t>(weights.size()) / out_features;
  QS_RETURN_IF_ERROR(CheckWeights(weights, width));
  QuantizedMatrix matrix = EmptyMatrix(out_features, width, options);
  for (int64_t o = 0; o < out_features; ++o) {
    for (int64_t g = 0; g < matrix.groups; ++g) {
      const int64_t begin = g * options.group_size;
      const int64_t end = std::min(begin + options.group_size, width);
      const float* row = weights.data() + o * width;
      const GroupScale scale = ChooseScale(row + begin, nullptr, end - begin, options.bits);
      matrix.scales[o * matrix.groups + g] = scale.bits;
      for (int64_t i = begin; i < end; ++i) {
        matrix.codes[o * width + i] = static_cast<uint8_t>(scale.Code(row[i], matrix.zero()));
      }
    }
  }
  QS_RETURN_IF_ERROR(CheckScales(matrix));
  return matrix;
}

double OutputEnergy(ThreadPool& pool, const float* matrix, int64_t rows, const float* hessian,
                    int64_t width) {
  const int64_t tasks = (rows + kTaskRows - 1) / kTaskRows;
  std::vector<double> energies(static_cast<size_t>(tasks));
  ParallelTasks(pool, tasks, [&](int64_t task) {
    const int64_t count = std::min(kTaskRows, rows - task * kTaskRows);
    const float* part = matrix + task * kTaskRows * width;
    std::vector<float> product(static_cast<size_t>(count * width));
    AddProduct({count, width, width}, 1.0f, {part, width, 1}, {hessian, width, 1}, product.data(),
               width);
    for (int64_t i = 0; i < count * width; ++i) energies[task] += double{part[i]} * product[i];
  });
  return std::accumulate(energies.begin(), energies.end(), 0.0);
}

}  // namespace qwenserve
