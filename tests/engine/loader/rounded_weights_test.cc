// Weights rounded while loading, on every rank of 1 to 4, against a plain implementation over the
// whole tensors: each weight must be exactly scale * code.
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/loader/weight_loader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/engine/loader/loaded_weights.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

// Cuts of heads at 2 to 4 ranks: between groups (128), at their half and quarter. The FFN and the
// hidden size are no multiples of a group.
constexpr char kRoundedConfig[] = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 192,
    "intermediate_size": 416, "num_attention_heads": 6, "num_hidden_layers": 1,
    "num_key_value_heads": 2, "vocab_size": 37, "max_position_embeddings": 64,
    "eos_token_id": 1, "tie_word_embeddings": false})";
// Heads of 24: cuts within a block of 32.
constexpr char kOddConfig[] = R"({"architectures": ["Qwen3ForCausalLM"], "hidden_size": 136,
    "intermediate_size": 184, "num_attention_heads": 6, "num_hidden_layers": 1, "head_dim": 24,
    "num_key_value_heads": 3, "vocab_size": 37, "max_position_embeddings": 64,
    "eos_token_id": 1, "tie_word_embeddings": true})";

float Nearest(float value, float scale, float low, float high) {
  if (scale == 0) return 0;
  return std::min(high, std::max(low, std::nearbyint(value * (1.0f / scale))));
}

// What a row must become, in groups of `group` from its first column on.
std::vector<float> RoundRow(const std::vector<float>& row, bool int8, size_t group) {
  std::vector<float> out;
  for (size_t begin = 0; begin < row.size(); begin += group) {
    const size_t end = std::min(row.size(), begin + group);
    float largest = 0;
    for (size_t i = begin; i < end; ++i) {
      if (std::fabs(row[i]) > std::fabs(largest) || row[i] == -largest) {
        largest = std::fabs(row[i]) == std::fabs(largest) ? std::fabs(row[i]) : row[i];
      }
    }
    std::vector<float> best;
    double least = 0;
    for (const float target : {8.0f, 8.75f, 9.5f, 10.25f}) {
      const float ideal = int8 ? std::fabs(largest) / 127 : -largest / target;
      const float scale = F16ToFloat(FloatToF16(ideal));
      std::vector<float> rounded;
      double error = 0;
      for (size_t i = begin; i < end; ++i) {
        rounded.push_back(scale * Nearest(row[i], scale, int8 ? -128.f : -8.f, int8 ? 127.f : 7.f));
        error += std::pow(double{row[i]} - rounded.back(), 2);
      }
      if (!best.empty() && error >= least) continue;
      best = rounded;
      least = error;
    }
    out.insert(out.end(), best.begin(), best.end());
  }
  return out;
}

class RoundedWeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = FreshDir(
        absl::StrCat("rounded_", ::testing::UnitTest::GetInstance()->current_test_info()->name()));
  }

  // Gaussian weights of the given type.
  void Use(const char* config, DType dtype) {
    config_ = *ParseJson(config, "x");
    tensors_ = ModelTensors(config_);
    std::mt19937 random(17);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    for (RawTensor& tensor : tensors_) {
      const size_t count = tensor.data.size() / 2;
      tensor.data.clear();
      tensor.dtype = dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16";
      for (size_t i = 0; i < count; ++i) {
        const float value = normal(random);
        if (dtype == DType::kF32) {
          tensor.data.append(reinterpret_cast<const char*>(&value), 4);
        } else {
          const uint16_t bits = dtype == DType::kF16 ? FloatToF16(value) : FloatToBf16(value);
          tensor.data.append(reinterpret_cast<const char*>(&bits), 2);
        }
      }
    }
  }

  RawTensor& Tensor(const std::string& name) {
    for (RawTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return tensors_[0];
  }

  std::vector<float> Row(const std::string& name, int64_t row) {
    const RawTensor& tensor = Tensor(name);
    const int64_t width = tensor.shape[1];
    std::vector<float> values(static_cast<size_t>(width));
    for (int64_t i = 0; i < width; ++i) {
      const size_t index = static_cast<size_t>(row * width + i);
      uint16_t bits;
      std::memcpy(&bits, tensor.data.data() + 2 * index, 2);
      if (tensor.dtype == "F32") {
        std::memcpy(&values[i], tensor.data.data() + 4 * index, 4);
      } else {
        values[i] = tensor.dtype == "F16" ? F16ToFloat(bits) : Bf16ToFloat(bits);
      }
    }
    return values;
  }

  absl::StatusOr<ModelWeights> Load(WeightChoice choice, int tp = 1, int rank = 0,
                                    int threads = 1) {
    WriteFile(dir_ + "/config.json", config_.dump());
    WriteFile(dir_ + "/model.safetensors", SafetensorsBytes(tensors_));
    checkpoint_ = *Checkpoint::Open(dir_);
    CpuBackendOptions options;
    options.num_threads = threads;
    backend_ = *MakeCpuBackend(options);
    shard_ = *MakeShardPlan(checkpoint_->config(), tp, rank);
    return LoadWeights(*checkpoint_, shard_, choice, *backend_, nullptr);
  }

  void ExpectAllOf(const ModelWeights& weights, WeightFormat format) {
    for (const LayerWeights& layer : weights.layers) {
      for (const auto* matrix : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
        EXPECT_EQ(matrix->format, format);
      }
    }
    EXPECT_EQ(weights.embedding.format, WeightFormat::kInt8);
    EXPECT_EQ(weights.Head().format, WeightFormat::kInt8);
    ExpectMatrices(weights, checkpoint_->config(), shard_, *backend_,
                   [&](const std::string& name, int64_t row) {
                     const bool table =
                         name == "lm_head.weight" || name == "model.embed_tokens.weight";
                     return RoundRow(Row(name, row), table || format == WeightFormat::kInt8,
                                     table ? 1 << 20 : 128);
                   });
  }

  std::string dir_;
  Json config_;
  std::vector<RawTensor> tensors_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ShardPlan shard_;
};

TEST_F(RoundedWeightsTest, EveryWeightOnEveryRankIsTheWholeTensors) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    Use(kRoundedConfig, dtype);
    for (const int tp : {1, 2, 3, 4}) {
      for (int rank = 0; rank < tp; ++rank) {
        SCOPED_TRACE(absl::StrCat(DTypeName(dtype), " tp ", tp, " rank ", rank));
        for (const auto& [choice, format] : {std::pair(WeightChoice::kInt8, WeightFormat::kInt8),
                                             std::pair(WeightChoice::kInt4, WeightFormat::kInt4)}) {
          auto weights = Load(choice, tp, rank, 1 + rank);
          ASSERT_TRUE(weights.ok()) << weights.status();
          ExpectAllOf(*weights, format);
          EXPECT_EQ(*LoadedBytes(*checkpoint_, shard_, choice), HeldBytes(*weights));
        }
      }
    }
  }
}

TEST_F(RoundedWeightsTest, CutsWithinABlockAndTiedEmbeddings) {
  Use(kOddConfig, DType::kBf16);
  for (const int tp : {1, 2, 3, 4}) {
    for (int rank = 0; rank < tp; ++rank) {
      SCOPED_TRACE(absl::StrCat("tp ", tp, " rank ", rank));
      auto weights = Load(WeightChoice::kInt4, tp, rank);
      ASSERT_TRUE(weights.ok()) << weights.status();
      EXPECT_TRUE(weights->head.data.empty());
      ExpectAllOf(*weights, WeightFormat::kInt4);
    }
  }
}

TEST_F(RoundedWeightsTest, AWeightThatNoScaleHoldsIsNamed) {
  Use(kRoundedConfig, DType::kF32);
  const float value = 1e30f;
  std::memcpy(Tensor("model.layers.0.mlp.up_proj.weight").data.data() + 4 * (192 * 3 + 150), &value,
              4);
  const absl::Status status = Load(WeightChoice::kInt4, 1, 0, 3).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* word : {"model.safetensors", "model.layers.0.mlp.up_proj.weight", "row 3",
                           "columns 128 to 191", "1e+30"}) {
    EXPECT_THAT(status.message(), HasSubstr(word));
  }
  EXPECT_TRUE(Load(WeightChoice::kAuto).ok());
}

TEST_F(RoundedWeightsTest, Bf16MustBeInTheFile) {
  Use(kRoundedConfig, DType::kBf16);
  EXPECT_TRUE(Load(WeightChoice::kBf16).ok());
  Use(kRoundedConfig, DType::kF16);
  const absl::Status status = Load(WeightChoice::kBf16).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("is fp16, but bf16 weights were asked for"));
}

TEST_F(RoundedWeightsTest, ProgressIsToldWithinALargeMatrix) {
  Use(kRoundedConfig, DType::kBf16);
  ASSERT_TRUE(Load(WeightChoice::kInt4).ok());
  const TensorRef* embedding = checkpoint_->Find("model.embed_tokens.weight");
  int64_t last = 0, calls_in_embedding = 0, total = 0;
  auto weights = LoadWeights(*checkpoint_, shard_, WeightChoice::kInt4, *backend_,
                             [&](int64_t done, int64_t all) {
                               EXPECT_GT(done, last);
                               if (done < embedding->bytes) ++calls_in_embedding;
                               last = done;
                               total = all;
                             });
  ASSERT_TRUE(weights.ok());
  EXPECT_EQ(last, total);
  EXPECT_GE(calls_in_embedding, 2);  // 37 rows are three panels
}

}  // namespace
}  // namespace qwenserve
