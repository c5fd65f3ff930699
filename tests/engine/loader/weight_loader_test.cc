#include "engine/loader/weight_loader.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/kernels/reference_backend.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

constexpr char kQwen2[] = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 32,
    "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "vocab_size": 21, "max_position_embeddings": 64,
    "eos_token_id": 1})";
constexpr char kQwen1[] = R"({"architectures": ["QWenLMHeadModel"], "hidden_size": 32,
    "kv_channels": 8, "intermediate_size": 192, "num_attention_heads": 4,
    "num_hidden_layers": 2, "vocab_size": 21, "eos_token_id": 1})";

class WeightLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = FreshDir(
        absl::StrCat("weights_", ::testing::UnitTest::GetInstance()->current_test_info()->name()));
    backend_ = *MakeCpuBackend({});
    Use(kQwen2);
  }

  void Use(const char* config) {
    config_ = *ParseJson(config, "x");
    tensors_ = ModelTensors(config_);
  }

  RawTensor& Tensor(const std::string& name) {
    for (RawTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return tensors_[0];
  }

  void Open() {
    WriteFile(dir_ + "/config.json", config_.dump());
    WriteFile(dir_ + "/model.safetensors", SafetensorsBytes(tensors_));
    auto checkpoint = Checkpoint::Open(dir_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = std::move(*checkpoint);
  }

  absl::StatusOr<ModelWeights> Load(int tp = 1, int rank = 0) {
    return LoadWeights(*checkpoint_, *MakeShardPlan(checkpoint_->config(), tp, rank),
                       WeightChoice::kAuto, *backend_, nullptr);
  }

  void ExpectError(const std::vector<std::string>& words) {
    Open();
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    for (const std::string& word : words) EXPECT_THAT(status.message(), HasSubstr(word));
  }

  // The element of a tensor of the checkpoint.
  float Raw(const std::string& name, int64_t row, int64_t column = 0) {
    const RawTensor& tensor = Tensor(name);
    const int64_t stride = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
    uint16_t bits;
    std::memcpy(&bits, tensor.data.data() + 2 * (row * stride + column), 2);
    return Bf16ToFloat(bits);
  }

  // Column `column` of a packed weight, through the only op that reads one.
  std::vector<float> Column(const LinearWeight& weight, int64_t column) {
    std::vector<float> x(weight.in_features, 0.0f), out(weight.out_features);
    x[column] = 1;
    backend_->Linear(x.data(), 1, weight, nullptr, out.data());
    EXPECT_TRUE(backend_->Sync().ok());
    return out;
  }

  std::string dir_;
  Json config_;
  std::vector<RawTensor> tensors_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(WeightLoaderTest, StacksQueriesKeysAndValues) {
  Open();
  auto weights = Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  const LayerWeights& layer = weights->layers[1];
  EXPECT_EQ(layer.qkv.out_features, 32 + 2 * 16);
  EXPECT_EQ(layer.qkv.in_features, 32);
  const std::vector<float> column = Column(layer.qkv, 5);
  EXPECT_EQ(column[3], Raw("model.layers.1.self_attn.q_proj.weight", 3, 5));
  EXPECT_EQ(column[32 + 3], Raw("model.layers.1.self_attn.k_proj.weight", 3, 5));
  EXPECT_EQ(column[48 + 15], Raw("model.layers.1.self_attn.v_proj.weight", 15, 5));
  const float* bias = layer.qkv_bias.as<float>();
  EXPECT_EQ(bias[31], Raw("model.layers.1.self_attn.q_proj.bias", 31));
  EXPECT_EQ(bias[32], Raw("model.layers.1.self_attn.k_proj.bias", 0));
  EXPECT_EQ(bias[63], Raw("model.layers.1.self_attn.v_proj.bias", 15));
  const std::vector<float> gate_up = Column(layer.gate_up, 7);
  EXPECT_EQ(gate_up[95], Raw("model.layers.1.mlp.gate_proj.weight", 95, 7));
  EXPECT_EQ(gate_up[96], Raw("model.layers.1.mlp.up_proj.weight", 0, 7));
  EXPECT_TRUE(layer.q_norm.empty());
  EXPECT_EQ(weights->final_norm.as<float>()[31], Raw("model.norm.weight", 31));
  EXPECT_EQ(Column(weights->Head(), 4)[20], Raw("lm_head.weight", 20, 4));
}

// Three ranks over four query heads, two KV heads, 96 FFN columns and 21 vocabulary rows: every
// kind of cut, and none of them even.
TEST_F(WeightLoaderTest, ARankHoldsItsShare) {
  Open();
  auto weights = Load(3, 2);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const LayerWeights& layer = weights->layers[0];
  // Query head 3 alone, and KV head 1 with it.
  EXPECT_EQ(layer.qkv.out_features, 3 * 8);
  const std::vector<float> column = Column(layer.qkv, 30);
  EXPECT_EQ(column[0], Raw("model.layers.0.self_attn.q_proj.weight", 24, 30));
  EXPECT_EQ(column[8], Raw("model.layers.0.self_attn.k_proj.weight", 8, 30));
  EXPECT_EQ(column[23], Raw("model.layers.0.self_attn.v_proj.weight", 15, 30));
  EXPECT_EQ(layer.qkv_bias.as<float>()[23], Raw("model.layers.0.self_attn.v_proj.bias", 15));
  EXPECT_EQ(layer.attn_out.in_features, 8);
  EXPECT_EQ(Column(layer.attn_out, 2)[31], Raw("model.layers.0.self_attn.o_proj.weight", 31, 26));
  // 96 columns are 3 units of 32.
  EXPECT_EQ(layer.down.in_features, 32);
  EXPECT_EQ(Column(layer.down, 1)[0], Raw("model.layers.0.mlp.down_proj.weight", 0, 65));
  EXPECT_EQ(Column(layer.gate_up, 0)[32], Raw("model.layers.0.mlp.up_proj.weight", 64, 0));
  EXPECT_EQ(weights->embedding.out_features, 7);
  EXPECT_EQ(Column(weights->embedding, 3)[6], Raw("model.embed_tokens.weight", 20, 3));
}

TEST_F(WeightLoaderTest, TheLastRanksVocabularyIsFilledWithZeros) {
  Open();
  auto weights = Load(4, 3);  // ceil(21 / 4) = 6 rows each, 3 for the last
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->head.out_features, 6);
  const std::vector<float> column = Column(weights->head, 0);
  EXPECT_EQ(column[2], Raw("lm_head.weight", 20, 0));
  EXPECT_EQ(std::vector<float>(column.begin() + 3, column.end()), std::vector<float>(3, 0.0f));
}

TEST_F(WeightLoaderTest, ReadsTheFusedAttentionOfQwen1) {
  Use(kQwen1);
  Open();
  auto weights = Load(2, 1);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const LayerWeights& layer = weights->layers[1];
  const std::vector<float> column = Column(layer.qkv, 9);
  ASSERT_EQ(column.size(), 48u);
  for (int third = 0; third < 3; ++third) {
    EXPECT_EQ(column[third * 16], Raw("transformer.h.1.attn.c_attn.weight", third * 32 + 16, 9));
    EXPECT_EQ(layer.qkv_bias.as<float>()[third * 16 + 15],
              Raw("transformer.h.1.attn.c_attn.bias", third * 32 + 31));
  }
  const std::vector<float> gate_up = Column(layer.gate_up, 0);
  ASSERT_EQ(gate_up.size(), 64u);  // 96 columns in units of 32: two for rank 0, one for rank 1
  EXPECT_EQ(gate_up[0], Raw("transformer.h.1.mlp.w2.weight", 64, 0));
  EXPECT_EQ(gate_up[32], Raw("transformer.h.1.mlp.w1.weight", 64, 0));
}

TEST_F(WeightLoaderTest, ReportsProgressUpToAllBytes) {
  Open();
  int64_t last = 0, total = 0;
  auto weights = LoadWeights(*checkpoint_, *MakeShardPlan(checkpoint_->config(), 1, 0),
                             WeightChoice::kAuto, *backend_, [&](int64_t done, int64_t all) {
                               EXPECT_GT(done, last);
                               last = done;
                               total = all;
                             });
  ASSERT_TRUE(weights.ok());
  int64_t bytes = 0;
  for (const RawTensor& tensor : tensors_) bytes += static_cast<int64_t>(tensor.data.size());
  EXPECT_EQ(last, bytes);
  EXPECT_EQ(total, bytes);
}

// Kilobytes of this process's memory that are pages of the file.
int64_t ResidentKilobytes(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  int64_t kilobytes = 0;
  bool inside = false;
  while (std::getline(maps, line)) {
    if (line.find('-') < line.find(' ')) inside = line.find(path) != std::string::npos;
    int64_t rss = 0;
    if (inside && std::sscanf(line.c_str(), "Rss: %ld kB", &rss) == 1) kilobytes += rss;
  }
  return kilobytes;
}

TEST_F(WeightLoaderTest, GivesThePagesOfTheSourceBack) {
  config_["vocab_size"] = 20000;  // embedding and head of 1.2 MB each
  tensors_ = ModelTensors(config_);
  Open();
  const std::string path = "weights_GivesThePagesOfTheSourceBack/model.safetensors";
  const TensorRef* embedding = checkpoint_->Find("model.embed_tokens.weight");
  int64_t sum = 0;
  for (int64_t i = 0; i < embedding->bytes; i += 1024) {
    sum += static_cast<const uint8_t*>(embedding->data)[i];
  }
  EXPECT_NE(sum, 0);
  EXPECT_GT(ResidentKilobytes(path), 1000);  // the measure sees pages that are in use
  ASSERT_TRUE(Load().ok());
  EXPECT_LT(ResidentKilobytes(path), 100);
}

// Keeps what it is asked to pack.
class BlockCollector : public ReferenceBackend {
 public:
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override {
    widths.insert(widths.end(), blocks.size(), in_features);
    all.insert(all.end(), blocks.begin(), blocks.end());
    return ReferenceBackend::PackLinear(blocks, in_features);
  }
  std::vector<RowBlock> all;
  std::vector<int64_t> widths;
};

TEST_F(WeightLoaderTest, TellsWhereRowsLieInTheFileAndReadsItFromFrontToBack) {
  // A file in another order than the weight map's.
  std::reverse(tensors_.begin(), tensors_.end());
  Open();
  for (const int rank : {0, 1}) {
    BlockCollector backend;
    ASSERT_TRUE(LoadWeights(*checkpoint_, *MakeShardPlan(checkpoint_->config(), 2, rank),
                            WeightChoice::kAuto, backend, nullptr)
                    .ok());
    std::vector<int64_t> starts;
    for (size_t i = 0; i < backend.all.size(); ++i) {
      const RowBlock& block = backend.all[i];
      if (block.rows == 1 && block.fd < 0) continue;  // fills up the last rank's vocabulary
      starts.push_back(block.file_offset);
      std::string row(static_cast<size_t>(backend.widths[i]) * 2, 0);
      for (int64_t r = 0; r < block.rows; ++r) {
        const int64_t step = r * block.row_stride * 2;
        ASSERT_EQ(pread(block.fd, row.data(), row.size(), block.file_offset + step),
                  static_cast<ssize_t>(row.size()));
        ASSERT_EQ(std::memcmp(row.data(), static_cast<const char*>(block.data) + step, row.size()),
                  0);
      }
    }
    ASSERT_EQ(starts.size(), 2u + 2 * (3 + 1 + 2 + 1));
    // Of stacked parts the first one in the file counts.
    EXPECT_LT(starts.front(), starts.back());
    EXPECT_EQ(starts.back(),
              checkpoint_->Find("model.embed_tokens.weight")->offset + rank * int64_t{11 * 32 * 2});
  }
}

TEST_F(WeightLoaderTest, ReadsVectorsOfEveryFloatType) {
  RawTensor& norm = Tensor("model.norm.weight");
  norm.dtype = "F32";
  norm.data.clear();
  for (int i = 0; i < 32; ++i) {
    const float value = 0.1f * static_cast<float>(i);
    norm.data.append(reinterpret_cast<const char*>(&value), 4);
  }
  RawTensor& input = Tensor("model.layers.0.input_layernorm.weight");
  input.dtype = "F16";
  input.data[0] = '\x00';
  input.data[1] = '\x3e';  // 1.5
  Open();
  auto weights = Load();
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->final_norm.as<float>()[31], 0.1f * 31);
  EXPECT_EQ(weights->layers[0].input_norm.as<float>()[0], 1.5f);
}

TEST_F(WeightLoaderTest, AMissingTensorIsNamedWithItsShape) {
  std::erase_if(tensors_, [](const RawTensor& tensor) {
    return tensor.name == "model.layers.1.self_attn.k_proj.weight";
  });
  ExpectError({dir_, "model.layers.1.self_attn.k_proj.weight", "[16, 32]", "missing"});
}

TEST_F(WeightLoaderTest, AWrongShapeIsNamedBesideTheRightOne) {
  Tensor("model.layers.0.mlp.up_proj.weight").shape = {32, 96};
  ExpectError({"model.safetensors", "model.layers.0.mlp.up_proj.weight", "[32, 96]", "[96, 32]"});
}

TEST_F(WeightLoaderTest, AWrongNumberOfDimensionsIsRefused) {
  Tensor("model.norm.weight").shape = {32, 1};
  ExpectError({"model.norm.weight", "[32, 1]", "[32]"});
}

TEST_F(WeightLoaderTest, AnUnexpectedTensorIsNamed) {
  tensors_.push_back({"model.layers.2.mlp.up_proj.weight", "BF16", {4}, std::string(8, '\0')});
  ExpectError({"model.safetensors", "model.layers.2.mlp.up_proj.weight", "[4]", "2 layers"});
}

TEST_F(WeightLoaderTest, PartsOfOneMatrixMustHaveOneType) {
  Tensor("model.layers.0.self_attn.v_proj.weight").dtype = "F16";
  ExpectError({"v_proj", "q_proj", "different dtypes"});
}

}  // namespace
}  // namespace qwenserve
