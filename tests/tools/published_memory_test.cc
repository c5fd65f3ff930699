#include "tools/bench/published_memory.h"

#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/memory_table.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(PublishedMemoryTest, NoRowTakesMoreThanItsNumber) {
  const std::vector<PublishedMemory> rows = PublishedMemoryRows();
  ASSERT_EQ(rows.size(), 12u);
  for (const PublishedMemory& row : rows) {
    for (const int tp : {1, row.cards}) {
      const PlannedMemory planned = PlanPublished(row.config, tp, WeightChoice::kAuto);
      EXPECT_LE(static_cast<double>(planned.total()) / (int64_t{1} << 30), row.gigabytes)
          << row.model << " " << row.format << " tp " << tp;
      // Not less than the tensors, either.
      EXPECT_GT(planned.total(), 0.8e9 * row.gigabytes) << row.model << " " << row.format;
    }
  }
}

TEST(PublishedMemoryTest, WeightsAreThoseOfTheFiles) {
  // Bytes of the released safetensors files; GPTQ's also hold 4 bytes per input of group numbers,
  // biases of zeros and zero points, which are not kept.
  struct {
    const char* model;
    const char* format;
    double bytes;
  } kFiles[] = {{"Qwen-1.8B", "bf16", 3673657344.0}, {"Qwen-7B", "bf16", 15442649088.0},
                {"Qwen-14B", "bf16", 28334581760.0}, {"Qwen-72B", "bf16", 144575840256.0},
                {"Qwen-7B", "int4", 5860564992.0},   {"Qwen-7B", "int8", 9123864576.0},
                {"Qwen-72B", "int4", 41277997056.0}, {"Qwen-72B", "int8", 76447236096.0}};
  for (const auto& file : kFiles) {
    for (const PublishedMemory& row : PublishedMemoryRows()) {
      if (row.model != file.model || row.format != file.format) continue;
      const auto weights =
          static_cast<double>(PlanPublished(row.config, 1, WeightChoice::kAuto).ranks.weights);
      EXPECT_NEAR(weights, file.bytes, 0.01 * file.bytes) << row.model << " " << row.format;
    }
  }
}

TEST(PublishedMemoryTest, Qwen72BInBf16NeedsTwoCards) {
  for (const PublishedMemory& row : PublishedMemoryRows()) {
    const int cards = CardsOf80(row.config, WeightChoice::kAuto);
    const bool large = row.model == "Qwen-72B" && row.format != "int4";
    EXPECT_EQ(cards, large ? 2 : 1) << row.model << " " << row.format;
    if (row.model != "Qwen-72B" || row.format != "bf16") continue;
    const PlannedMemory one = PlanPublished(row.config, 1, WeightChoice::kAuto);
    for (const CardSize& card : CommonCards()) {
      EXPECT_GT(one.total(), UsableBytes(card, EngineOptions().gpu_memory_fraction));
    }
  }
}

// The rows of a page's table, and the total of each.
std::vector<std::pair<std::string, double>> RowsOf(std::istream&& page) {
  std::vector<std::pair<std::string, double>> rows;
  for (std::string line; std::getline(page, line);) {
    const size_t total = line.find("**");
    if (line.empty() || line[0] != '|' || total == std::string::npos) continue;
    rows.emplace_back(line.substr(0, line.find(" (")), std::stod(line.substr(total + 2)));
  }
  return rows;
}

TEST(PublishedMemoryTest, TheRecordedPageIsNoOther) {
  const auto recorded = RowsOf(std::ifstream("tools/bench/results/gpu_memory.md"));
  const auto now = RowsOf(std::istringstream(PublishedMemoryPage()));
  ASSERT_EQ(now.size(), 20u);
  ASSERT_EQ(recorded.size(), now.size());
  for (size_t i = 0; i < now.size(); ++i) {
    EXPECT_EQ(recorded[i].first, now[i].first);
    // How steps are cut into blocks of threads may change by some megabytes.
    EXPECT_NEAR(recorded[i].second, now[i].second, 0.1)
        << "run: qwenserve_bench memory > tools/bench/results/gpu_memory.md";
  }
}

}  // namespace
}  // namespace qwenserve
