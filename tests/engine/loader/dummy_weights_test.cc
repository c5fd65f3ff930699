#include "engine/loader/dummy_weights.h"

#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/loader/planned_weights.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/engine/loader/loaded_weights.h"
#include "tests/kernels/reference_backend.h"

namespace qwenserve {
namespace {

constexpr char kDummyConfig[] = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 256,
    "intermediate_size": 384, "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "vocab_size": 1001, "max_position_embeddings": 64,
    "eos_token_id": 1, "torch_dtype": "bfloat16"%s})";

// A folder with config.json alone.
std::unique_ptr<Checkpoint> Dummy(const std::string& more = "") {
  const std::string dir = FreshDir("dummy");
  std::string text = kDummyConfig;
  text.replace(text.find("%s"), 2, more);
  WriteFile(dir + "/config.json", text);
  EXPECT_TRUE(absl::IsNotFound(Checkpoint::Open(dir).status()));
  auto checkpoint = Checkpoint::Open(dir, LoadFormat::kDummy);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
}

constexpr char kGptq[] = R"(, "quantization_config": {"quant_method": "gptq", "bits": 4,
    "group_size": 64, "desc_act": false, "sym": false})";

struct Style {
  std::string more;
  WeightChoice choice;
};
const Style kStyles[] = {
    {"", WeightChoice::kAuto},    {"", WeightChoice::kInt8},
    {"", WeightChoice::kInt4},    {R"(, "dtype": "float16")", WeightChoice::kAuto},
    {kGptq, WeightChoice::kAuto}, {kGptq, WeightChoice::kInt4}};

double Deviation(const std::vector<float>& values) {
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  return std::sqrt(squares / static_cast<double>(values.size()));
}

TEST(DummyWeightsTest, HaveTheSizesOfThePlanAndKeepTheSizeOfActivations) {
  const auto backend = MakeCpuBackend({});
  for (const Style& style : kStyles) {
    const auto checkpoint = Dummy(style.more);
    for (const int tp : {1, 2}) {
      SCOPED_TRACE(absl::StrCat(style.more, " ", WeightChoiceName(style.choice), " tp ", tp));
      const auto shard = MakeShardPlan(checkpoint->config(), tp, tp - 1);
      int64_t told = 0, total = 0;
      const auto weights =
          LoadWeights(*checkpoint, *shard, style.choice, **backend, [&](int64_t done, int64_t all) {
            EXPECT_GT(done, told);
            told = done;
            total = all;
          });
      ASSERT_TRUE(weights.ok()) << weights.status();
      EXPECT_EQ(told, total);
      EXPECT_EQ(HeldBytes(*weights), total);
      EXPECT_EQ(*LoadedBytes(*checkpoint, *shard, style.choice), total);

      const LayerWeights& layer = weights->layers[1];
      for (const LinearWeight* weight :
           {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down, &weights->head}) {
        const std::vector<float> row = LoadedRow(*weight, 3, **backend);
        const double wanted = 1 / std::sqrt(static_cast<double>(row.size()));
        EXPECT_NEAR(Deviation(row), wanted, 0.25 * wanted);
      }
      EXPECT_NEAR(Deviation(LoadedRow(weights->embedding, 3, **backend)), 0.5, 0.1);
      EXPECT_NEAR(layer.input_norm.as<float>()[5], 1, 0.1);
    }
  }
}

TEST(DummyWeightsTest, AreTheSameEveryTimeAndRowsDiffer) {
  const auto backend = MakeCpuBackend({});
  for (const Style& style : kStyles) {
    const auto checkpoint = Dummy(style.more);
    const auto shard = MakeShardPlan(checkpoint->config(), 1, 0);
    const auto one = LoadWeights(*checkpoint, *shard, style.choice, **backend, nullptr);
    const auto two = LoadWeights(*checkpoint, *shard, style.choice, **backend, nullptr);
    ASSERT_TRUE(one.ok() && two.ok());
    std::set<std::vector<float>> rows;
    for (int64_t row = 0; row < 1001; ++row) {
      const std::vector<float> values = LoadedRow(one->head, row, **backend);
      EXPECT_EQ(values, LoadedRow(two->head, row, **backend));
      rows.insert(values);
    }
    EXPECT_GT(rows.size(), 990u);
    EXPECT_NE(LoadedRow(one->layers[0].down, 7, **backend),
              LoadedRow(one->layers[1].down, 7, **backend));
  }
}

TEST(DummyWeightsTest, TheHashIsOfTheConfiguration) {
  const std::string one = Dummy()->HashContent();
  EXPECT_EQ(one, Dummy()->HashContent());
  EXPECT_NE(one, Dummy(kGptq)->HashContent());
}

TEST(DummyWeightsTest, AChoiceThatDoesNotFitIsRefused) {
  const auto checkpoint = Dummy(kGptq);
  const auto backend = MakeCpuBackend({});
  const auto shard = MakeShardPlan(checkpoint->config(), 1, 0);
  EXPECT_TRUE(absl::IsInvalidArgument(
      LoadWeights(*checkpoint, *shard, WeightChoice::kInt8, **backend, nullptr).status()));
}

// Kilobytes that this process has had at most.
int64_t PeakKilobytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6));
  }
  return 0;
}

// Takes any matrix and keeps none: a device with memory of its own.
class Sink : public ReferenceBackend {
 public:
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks, int64_t) override {
    for (const RowBlock& block : blocks) rows += block.rows;
    return LinearWeight();
  }
  int64_t rows = 0;
};

TEST(DummyWeightsTest, CostTheHostNoMoreForALargeModel) {
  const std::string dir = FreshDir("dummy_large");
  WriteFile(dir + "/config.json",
            R"({"architectures": ["QWenLMHeadModel"], "hidden_size": 8192,
               "num_hidden_layers": 80, "num_attention_heads": 64, "kv_channels": 128,
               "intermediate_size": 49152, "vocab_size": 152064, "eos_token_id": 1})");
  const auto checkpoint = Checkpoint::Open(dir, LoadFormat::kDummy);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t before = PeakKilobytes();
  Sink sink;
  ASSERT_TRUE(LoadWeights(**checkpoint, *MakeShardPlan((*checkpoint)->config(), 8, 7),
                          WeightChoice::kAuto, sink, nullptr)
                  .ok());
  EXPECT_EQ(sink.rows, 2 * 19008 + 80 * (3 * 1024 + 8192 + 2 * 3072 + 8192));
  EXPECT_LT(PeakKilobytes() - before, 64 * 1024);
}

}  // namespace
}  // namespace qwenserve
