#include "engine/runtime/memory_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/cache/kv_cache.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

constexpr double kGibibyte = int64_t{1} << 30;
constexpr int64_t Gibibytes(double count) { return static_cast<int64_t>(count * kGibibyte); }

// GeForce RTX 4090, A100 40GB, L40S, H100 80GB, H200.
constexpr CardSize kCards[] = {{24, Gibibytes(23.6)},
                               {40, Gibibytes(39.4)},
                               {48, Gibibytes(44.4)},
                               {80, Gibibytes(79.1)},
                               {141, Gibibytes(139.8)}};

std::vector<WeightChoice> ChoicesOf(const ModelConfig& config) {
  if (config.quantization.has_value()) return {WeightChoice::kAuto};
  return {WeightChoice::kAuto, WeightChoice::kInt8, WeightChoice::kInt4};
}

}  // namespace

absl::Span<const CardSize> CommonCards() { return kCards; }

int64_t UsableBytes(const CardSize& card, double fraction) {
  return static_cast<int64_t>(fraction * static_cast<double>(card.memory)) - kContextBytes;
}

std::vector<MemoryRow> MemoryTable(const ModelConfig& config, const MemoryRequest& base,
                                   double fraction) {
  std::vector<MemoryRow> rows;
  for (const int tp : {1, 2, 4, 8}) {
    for (const WeightChoice weights : ChoicesOf(config)) {
      for (const KvFormat kv_format : {KvFormat::kBf16, KvFormat::kInt8}) {
        MemoryRow row;
        row.request = base;
        row.request.device = DeviceKind::kCuda;
        row.request.tp = tp;
        row.request.weights = weights;
        row.request.kv_format = kv_format;
        const auto ranks = PlanMemory(config, row.request);
        if (!ranks.ok()) continue;
        const int64_t length = base.max_model_len > 0 ? base.max_model_len : config.max_positions;
        row.rank = LargestRank(*ranks, BlocksFor(length));
        for (const CardSize& card : kCards) {
          const int64_t blocks =
              BlocksThatFit(*ranks, DeviceKind::kCuda, UsableBytes(card, fraction));
          row.kv_tokens.push_back(blocks < 0 ? -1 : blocks * kKvBlockSize);
        }
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

std::string WeightsText(const ModelConfig& config, WeightChoice choice) {
  if (choice != WeightChoice::kAuto) return WeightChoiceName(choice);
  if (!config.quantization.has_value()) return DTypeName(config.float_type);
  return absl::StrCat(config.quantization->method == QuantizationMethod::kAwq ? "AWQ" : "GPTQ",
                      " int", config.quantization->bits);
}

}  // namespace qwenserve
