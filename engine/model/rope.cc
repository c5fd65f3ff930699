#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// YaRN (Peng et al., 2023): frequencies that turn more than kFastTurns times within the original
// length stay, those below kSlowTurns are divided by the factor, and between them it is a ramp.
constexpr double kFastTurns = 32.0;
constexpr double kSlowTurns = 1.0;

double DimensionOfTurns(double turns, const ModelConfig& config, double base) {
  const double length = static_cast<double>(config.yarn->original_max_positions);
  return static_cast<double>(config.head_dim) * std::log(length / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(base));
}

void ApplyYarn(const ModelConfig& config, double base, std::vector<double>& frequencies) {
  const double low = std::max(0.0, std::floor(DimensionOfTurns(kFastTurns, config, base)));
  const double high = std::min(static_cast<double>(config.head_dim - 1),
                               std::ceil(DimensionOfTurns(kSlowTurns, config, base)));
  // The small constant keeps a ramp of no width from dividing by zero.
  const double width = low == high ? 0.001 : high - low;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / width, 0.0, 1.0);
    frequencies[i] *= (1 - ramp) + ramp / config.yarn->factor;
  }
}

// YaRN's factor on cos and sin, which sharpens the attention of longer contexts.
double CosSinScale(const ModelConfig& config) {
  return config.yarn ? 0.1 * std::log(config.yarn->factor) + 1.0 : 1.0;
}

void AppendCosSin(const std::vector<double>& frequencies, double scale, int64_t position,
                  std::vector<float>& out) {
  for (const double frequency : frequencies) {
    const double angle = static_cast<double>(position) * frequency;
    out.push_back(static_cast<float>(std::cos(angle) * scale));
    out.push_back(static_cast<float>(std::sin(angle) * scale));
  }
}

// 2 * stretch - 1 for every power of two up to the longest prompt's.
std::vector<int64_t> Alphas(const ModelConfig& config, int64_t max_positions) {
  std::vector<int64_t> alphas;
  const int64_t last = NtkAlpha(config, max_positions);
  for (int64_t alpha = 1; alpha <= last; alpha = 2 * alpha + 1) alphas.push_back(alpha);
  return alphas;
}

}  // namespace

int64_t NtkAlpha(const ModelConfig& config, int64_t prompt_tokens) {
  if (config.ntk_train_length == 0) return 1;
  // 2^ceil(log2(n / train)), in integers, so that no rounding moves a threshold.
  int64_t stretch = 1;
  while (stretch * config.ntk_train_length < prompt_tokens) stretch *= 2;
  return 2 * stretch - 1;
}

float LognScale(const ModelConfig& config, int64_t position) {
  if (config.logn_train_length == 0 || position < config.logn_train_length) return 1.0f;
  return static_cast<float>(std::log(static_cast<double>(position + 1)) /
                            std::log(static_cast<double>(config.logn_train_length)));
}

std::vector<double> InverseFrequencies(const ModelConfig& config, int64_t alpha) {
  const double dim = static_cast<double>(config.head_dim);
  double base = config.rope_base;
  if (alpha != 1) base *= std::pow(static_cast<double>(alpha), dim / (dim - 2));
  std::vector<double> frequencies(config.head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(base, -2.0 * static_cast<double>(i) / dim);
  }
  if (config.yarn) ApplyYarn(config, base, frequencies);
  return frequencies;
}

std::vector<float> SampleRopeValues(const ModelConfig& config) {
  constexpr int64_t kStride = 61;  // prime: meets all residues of the periods in the table
  std::vector<float> values;
  const int64_t last = NtkAlpha(config, config.max_positions);
  for (int64_t alpha = 1; alpha <= last; alpha = 2 * alpha + 1) {
    const std::vector<double> frequencies = InverseFrequencies(config, alpha);
    for (int64_t position = 1; position < config.max_positions; position += kStride) {
      AppendCosSin(frequencies, CosSinScale(config), position, values);
      values.push_back(LognScale(config, position));
    }
  }
  return values;
}

absl::StatusOr<RopeTables> RopeTables::Create(const ModelConfig& config, int64_t max_positions,
                                              Backend& backend) {
  RopeTables tables(config, max_positions);
  for (const int64_t alpha : Alphas(config, max_positions)) {
    QS_RETURN_IF_ERROR(tables.Add(alpha, backend));
  }
  return tables;
}

int64_t RopeTables::Bytes(const ModelConfig& config, int64_t max_positions) {
  const auto floats = max_positions * (config.head_dim / 2) * 2;
  return static_cast<int64_t>(Alphas(config, max_positions).size() * sizeof(float)) * floats;
}

int32_t RopeTables::IndexFor(int64_t prompt_tokens) const {
  QS_CHECK(prompt_tokens > 0 && prompt_tokens <= max_positions_);
  const int64_t alpha = NtkAlpha(config_, prompt_tokens);
  const auto known = std::find(alphas_.begin(), alphas_.end(), alpha);
  QS_CHECK(known != alphas_.end());
  return static_cast<int32_t>(known - alphas_.begin());
}

absl::Status RopeTables::Add(int64_t alpha, Backend& backend) {
  const std::vector<double> frequencies = InverseFrequencies(config_, alpha);
  const double scale = CosSinScale(config_);
  std::vector<float> table;
  table.reserve(static_cast<size_t>(max_positions_) * frequencies.size() * 2);
  for (int64_t position = 0; position < max_positions_; ++position) {
    AppendCosSin(frequencies, scale, position, table);
  }
  QS_ASSIGN_OR_RETURN(Buffer buffer, backend.Allocate(table.size() * sizeof(float)));
  backend.CopyToDevice(table.data(), table.size() * sizeof(float), buffer.data());
  alphas_.push_back(alpha);
  tables_.push_back({buffer.as<float>(), max_positions_});
  buffers_.push_back(std::move(buffer));
  return absl::OkStatus();
}

}  // namespace qwenserve
