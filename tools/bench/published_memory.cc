#include "tools/bench/published_memory.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/json_reader.h"
#include "engine/cache/kv_cache.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/memory_table.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

struct Size {
  const char* name;
  int64_t hidden, layers, heads, stored_ffn, vocab, seq_length, max_positions;
  bool extends;         // dynamic NTK and logn
  double gigabytes[3];  // bf16, int8, int4
  int cards[3];
};

constexpr Size kSizes[] = {
    {"Qwen-1.8B", 2048, 24, 16, 11008, 151936, 8192, 8192, true, {4.23, 3.48, 2.91}, {1, 1, 1}},
    {"Qwen-7B", 4096, 32, 32, 22016, 151936, 8192, 32768, true, {16.99, 11.20, 8.21}, {1, 1, 1}},
    {"Qwen-14B", 5120, 40, 40, 27392, 152064, 2048, 8192, true, {30.15, 18.81, 13.01}, {1, 1, 1}},
    {"Qwen-72B",
     8192,
     80,
     64,
     49152,
     152064,
     32768,
     32768,
     false,
     {144.69, 81.27, 48.86},
     {2, 2, 1}},
};

ModelConfig ConfigOf(const Size& size, int bits) {
  Json json = {{"architectures", {"QWenLMHeadModel"}},
               {"hidden_size", size.hidden},
               {"num_hidden_layers", size.layers},
               {"num_attention_heads", size.heads},
               {"kv_channels", 128},
               {"intermediate_size", size.stored_ffn},
               {"vocab_size", size.vocab},
               {"seq_length", size.seq_length},
               {"max_position_embeddings", size.max_positions},
               {"use_dynamic_ntk", size.extends},
               {"use_logn_attn", size.extends},
               {"no_bias", true},
               {"tie_word_embeddings", false}};
  if (bits < 16) {
    json["fp16"] = true;
    json["quantization_config"] = {{"quant_method", "gptq"},
                                   {"bits", bits},
                                   {"group_size", 128},
                                   {"desc_act", false},
                                   {"sym", true}};
  }
  const auto config = ParseModelConfig(json, size.name);
  QS_CHECK(config.ok());
  return *config;
}

MemoryRequest RequestFor(int tp, WeightChoice weights) {
  MemoryRequest request;
  request.device = DeviceKind::kCuda;
  request.tp = tp;
  request.weights = weights;
  request.max_rows = kGpuBatchTokens;
  request.max_sequences = 1;
  request.max_model_len = kPublishedLength;
  return request;
}

double Gibibytes(int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); }

std::string RowText(const PublishedMemory& row, const std::string& how, WeightChoice weights) {
  const PlannedMemory one = PlanPublished(row.config, 1, weights);
  return absl::StrFormat("| %s | %s | %.2f (%d) | %.2f | %.2f | %.2f | **%.2f** | %d |\n",
                         row.model, how, row.gigabytes, row.cards, Gibibytes(one.ranks.weights),
                         Gibibytes(one.kv_bytes), Gibibytes(one.ranks.step + one.ranks.workspace),
                         Gibibytes(one.total()), CardsOf80(row.config, weights));
}

}  // namespace

std::vector<PublishedMemory> PublishedMemoryRows() {
  std::vector<PublishedMemory> rows;
  for (const Size& size : kSizes) {
    constexpr std::pair<const char*, int> kFormats[] = {{"bf16", 16}, {"int8", 8}, {"int4", 4}};
    for (int i = 0; i < 3; ++i) {
      rows.push_back({size.name, kFormats[i].first, size.gigabytes[i], size.cards[i],
                      ConfigOf(size, kFormats[i].second)});
    }
  }
  return rows;
}

PlannedMemory PlanPublished(const ModelConfig& config, int tp, WeightChoice weights) {
  const auto ranks = PlanMemory(config, RequestFor(tp, weights));
  QS_CHECK(ranks.ok());
  PlannedMemory planned;
  for (const RankMemory& rank : *ranks) {
    planned.ranks.weights += rank.weights;
    planned.ranks.step += rank.step;
    planned.ranks.workspace += rank.workspace;
    planned.ranks.kv_block += rank.kv_block;
  }
  planned.kv_bytes = planned.ranks.kv_block * BlocksFor(kPublishedLength);
  return planned;
}

int CardsOf80(const ModelConfig& config, WeightChoice weights) {
  for (const CardSize& card : CommonCards()) {
    if (card.gigabytes != 80) continue;
    for (int tp = 1; tp <= 8; tp *= 2) {
      const auto ranks = PlanMemory(config, RequestFor(tp, weights));
      const int64_t usable = UsableBytes(card, EngineOptions().gpu_memory_fraction);
      if (ranks.ok() &&
          BlocksThatFit(*ranks, DeviceKind::kCuda, usable) >= BlocksFor(kPublishedLength)) {
        return tp;
      }
    }
  }
  return 0;
}

std::string PublishedMemoryPage() {
  std::string page = absl::StrFormat(
      "# Memory of the rows of Qwen's speed table\n\n"
      "Made by `qwenserve_bench memory`: arithmetic from config.json, held against what the loader "
      "and a\nrank allocate by `memory_plan_test`; no GPU was asked. One sequence that generates "
      "2048 tokens (%d\npositions), bf16 KV cache, steps of up to %d rows, one GPU's share for "
      "all "
      "weights. Published: GB of\nall A100-80G that were used (their number). What the driver "
      "takes "
      "for its context, some %.1f GiB for\neach GPU, is not part of either side's sizes here. "
      "Cards: the fewest of 80 GB that hold it by this\nserver's defaults (%.0f %% of each, less "
      "the "
      "context).\n\n"
      "| model | weights | published GB | weights GiB | KV GiB | steps GiB | total GiB | cards |\n"
      "|---|---|---|---|---|---|---|---|\n",
      kPublishedLength, kGpuBatchTokens, Gibibytes(kContextBytes),
      EngineOptions().gpu_memory_fraction * 100);
  for (const PublishedMemory& row : PublishedMemoryRows()) {
    const bool quantized = row.config.quantization.has_value();
    absl::StrAppend(
        &page, RowText(row, quantized ? "GPTQ " + row.format : row.format, WeightChoice::kAuto));
    if (!quantized) continue;
    const WeightChoice choice = row.format == "int8" ? WeightChoice::kInt8 : WeightChoice::kInt4;
    absl::StrAppend(
        &page, RowText(row, "GPTQ " + row.format + ", `--weights " + row.format + "`", choice));
  }
  absl::StrAppend(&page,
                  "\n`--weights int8` or `int4` on such a checkpoint also rounds its embedding and "
                  "head to int8.\n");
  for (const PublishedMemory& row : PublishedMemoryRows()) {
    const PlannedMemory one = PlanPublished(row.config, 1, WeightChoice::kAuto);
    const int cards = CardsOf80(row.config, WeightChoice::kAuto);
    if (cards < 2) continue;
    const auto cut = PlanMemory(row.config, RequestFor(cards, WeightChoice::kAuto));
    const int64_t blocks = BlocksFor(kPublishedLength);
    const RankMemory& largest = LargestRank(*cut, blocks);
    absl::StrAppendFormat(
        &page,
        "\n%s %s: %.2f weights + %.2f KV + %.2f steps = %.2f GiB do not fit into one card of 80 GB "
        "(%.1f GiB);\non %d each holds %.2f GiB at most, and %.1f are usable.\n",
        row.model, row.format, Gibibytes(one.ranks.weights), Gibibytes(one.kv_bytes),
        Gibibytes(one.ranks.step + one.ranks.workspace), Gibibytes(one.total()), 79.1, cards,
        Gibibytes(largest.fixed() + blocks * largest.kv_block),
        Gibibytes(UsableBytes(CommonCards()[3], EngineOptions().gpu_memory_fraction)));
  }
  return page;
}

}  // namespace qwenserve
