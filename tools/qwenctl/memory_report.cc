#include "tools/qwenctl/memory_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/runtime/memory_table.h"
#include "kernels/attention_batch.h"

namespace qwenserve {
namespace {

double Gibibytes(int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); }

int64_t LengthOf(const ModelConfig& config, const MemoryRequest& base) {
  return base.max_model_len > 0 ? base.max_model_len : config.max_positions;
}

// "12.3k"; "-" where nothing fits.
std::string TokensText(int64_t tokens) {
  if (tokens < 0) return "-";
  if (tokens < 10'000) return absl::StrCat(tokens);
  return absl::StrCat(tokens / 1000, "k");
}

}  // namespace

std::string MemoryReportText(const ModelConfig& config, const MemoryRequest& base,
                             double fraction) {
  std::string text = absl::StrFormat(
      "memory of each GPU in GiB, context %d, %d sequences, %d rows a step; KV tokens left on "
      "cards "
      "of\nso many GB, %.0f %% of them used and %.1f GiB taken by the driver (- = does not fit, * "
      "= "
      "less than one context)\n",
      LengthOf(config, base), base.max_sequences, base.max_rows, fraction * 100,
      Gibibytes(kContextBytes));
  absl::StrAppendFormat(&text, "  %-3s %-10s %-5s %8s %6s %9s ", "tp", "weights", "kv", "weights",
                        "other", "KV/1k tok");
  for (const CardSize& card : CommonCards()) absl::StrAppendFormat(&text, "%9d", card.gigabytes);
  absl::StrAppend(&text, "\n");
  for (const MemoryRow& row : MemoryTable(config, base, fraction)) {
    absl::StrAppendFormat(&text, "  %-3d %-10s %-5s %8.2f %6.2f %9.3f ", row.request.tp,
                          WeightsText(config, row.request.weights),
                          KvFormatName(row.request.kv_format), Gibibytes(row.rank.weights),
                          Gibibytes(row.rank.step + row.rank.workspace),
                          Gibibytes(row.rank.kv_block) * 1000 / kKvBlockSize);
    for (const int64_t tokens : row.kv_tokens) {
      const bool short_one = tokens >= 0 && tokens < LengthOf(config, base);
      absl::StrAppendFormat(&text, "%9s", TokensText(tokens) + (short_one ? "*" : ""));
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

Json MemoryReportJson(const ModelConfig& config, const MemoryRequest& base, double fraction) {
  Json report;
  report["max_model_len"] = LengthOf(config, base);
  report["max_running"] = base.max_sequences;
  report["max_batch_tokens"] = base.max_rows;
  report["gpu_memory_fraction"] = fraction;
  report["context_bytes"] = kContextBytes;
  report["rows"] = Json::array();
  for (const MemoryRow& row : MemoryTable(config, base, fraction)) {
    Json entry = {{"tp", row.request.tp},
                  {"weights", WeightsText(config, row.request.weights)},
                  {"kv", KvFormatName(row.request.kv_format)},
                  {"weight_bytes", row.rank.weights},
                  {"step_bytes", row.rank.step},
                  {"workspace_bytes", row.rank.workspace},
                  {"kv_bytes_per_token", row.rank.kv_block / kKvBlockSize}};
    entry["cards"] = Json::array();
    for (size_t i = 0; i < row.kv_tokens.size(); ++i) {
      entry["cards"].push_back({{"gigabytes", CommonCards()[i].gigabytes},
                                {"usable_bytes", UsableBytes(CommonCards()[i], fraction)},
                                {"fits", row.kv_tokens[i] >= LengthOf(config, base)},
                                {"kv_tokens", std::max<int64_t>(row.kv_tokens[i], 0)}});
    }
    report["rows"].push_back(std::move(entry));
  }
  return report;
}

}  // namespace qwenserve
