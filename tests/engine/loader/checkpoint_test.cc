#include "engine/loader/checkpoint.h"

#include <filesystem>
#include <set>
#include <stop_token>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

constexpr char kConfig[] = R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 8,
    "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
    "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 64,
    "eos_token_id": 1, "tie_word_embeddings": true})";

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = FreshDir(absl::StrCat("checkpoint_",
                                 ::testing::UnitTest::GetInstance()->current_test_info()->name()));
    tensors_ = ModelTensors(*ParseJson(kConfig, "x"));
    Write("config.json", kConfig);
  }

  void Write(const std::string& name, const std::string& bytes) {
    WriteFile(absl::StrCat(dir_, "/", name), bytes);
  }

  // Two shards with an index that is right unless `index` is given.
  void WriteShards(Json index = nullptr) {
    const size_t half = tensors_.size() / 2;
    Json right = {{"metadata", {{"total_size", 1}}}, {"weight_map", Json::object()}};
    for (size_t i = 0; i < tensors_.size(); ++i) {
      right["weight_map"][tensors_[i].name] = i < half ? "a.safetensors" : "b.safetensors";
    }
    Write("a.safetensors", SafetensorsBytes({tensors_.begin(), tensors_.begin() + half}));
    Write("b.safetensors", SafetensorsBytes({tensors_.begin() + half, tensors_.end()}));
    if (!index.is_null()) right.merge_patch(index);
    Write("model.safetensors.index.json", right.dump());
  }

  void ExpectError(absl::StatusCode code, const std::vector<std::string>& words) {
    const absl::Status status = Checkpoint::Open(dir_).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
    for (const std::string& word : words) EXPECT_THAT(status.message(), HasSubstr(word));
  }

  std::string dir_;
  std::vector<RawTensor> tensors_;
};

TEST_F(CheckpointTest, OpensASingleFile) {
  Write("model.safetensors", SafetensorsBytes(tensors_));
  auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), tensors_.size());
  EXPECT_EQ((*checkpoint)->config().hidden_size, 8);
  const TensorRef* tensor = (*checkpoint)->Find("model.layers.0.mlp.down_proj.weight");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->dtype, DType::kBf16);
  EXPECT_EQ(tensor->shape, (std::vector<int64_t>{8, 16}));
  for (const RawTensor& raw : tensors_) {
    if (raw.name != tensor->name) continue;
    EXPECT_EQ(std::string(static_cast<const char*>(tensor->data), tensor->bytes), raw.data);
    (*checkpoint)->ReleasePages(*tensor);  // must not lose anything
    EXPECT_EQ(std::string(static_cast<const char*>(tensor->data), tensor->bytes), raw.data);
  }
  EXPECT_EQ((*checkpoint)->Find("nothing"), nullptr);
}

TEST_F(CheckpointTest, OpensShardsAndHashesThemLikeThemselves) {
  WriteShards();
  auto first = Checkpoint::Open(dir_);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ((*first)->tensors().size(), tensors_.size());
  const std::string hash = (*first)->HashContent();
  EXPECT_EQ(hash, (*Checkpoint::Open(dir_))->HashContent());
  EXPECT_EQ(hash.size(), 64u);
  // Every byte counts, wherever it lies.
  std::set<std::string> hashes = {hash};
  std::string& data = tensors_[2].data;
  for (size_t i = 0; i < data.size(); i += 1 + data.size() / 40) {
    data[i] ^= 1;
    WriteShards();
    EXPECT_TRUE(hashes.insert((*Checkpoint::Open(dir_))->HashContent()).second) << "byte " << i;
    data[i] ^= 1;
  }
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_EQ((*Checkpoint::Open(dir_))->HashContent(stopped.get_token()), "");
}

TEST_F(CheckpointTest, DecidesTiedEmbeddingsByTheFile) {
  Write("model.safetensors", SafetensorsBytes(tensors_));
  EXPECT_TRUE((*Checkpoint::Open(dir_))->config().tied_embeddings);
  Json config = *ParseJson(kConfig, "x");
  config["tie_word_embeddings"] = false;
  Write("config.json", config.dump());
  EXPECT_TRUE((*Checkpoint::Open(dir_))->config().tied_embeddings);
  Write("model.safetensors", SafetensorsBytes(ModelTensors(config)));  // with lm_head.weight
  EXPECT_FALSE((*Checkpoint::Open(dir_))->config().tied_embeddings);
}

TEST_F(CheckpointTest, Qwen1WithoutItsHeadIsRefused) {
  Json config = *ParseJson(R"({"architectures": ["QWenLMHeadModel"], "hidden_size": 16,
      "kv_channels": 8, "intermediate_size": 16, "num_attention_heads": 2,
      "num_hidden_layers": 1, "vocab_size": 10, "eos_token_id": 1})",
                           "x");
  Write("config.json", config.dump());
  std::vector<RawTensor> tensors = ModelTensors(config);
  Write("model.safetensors", SafetensorsBytes(tensors));
  EXPECT_TRUE(Checkpoint::Open(dir_).ok());
  std::erase_if(tensors, [](const RawTensor& tensor) { return tensor.name == "lm_head.weight"; });
  Write("model.safetensors", SafetensorsBytes(tensors));
  ExpectError(absl::StatusCode::kInvalidArgument, {"lm_head.weight", "missing"});
}

TEST_F(CheckpointTest, LeavesOutMasksAndTables) {
  tensors_.push_back(
      {"model.layers.0.self_attn.rotary_emb.inv_freq", "F64", {2}, std::string(16, '\0')});
  tensors_.push_back({"transformer.h.0.attn.bias", "BOOL", {8}, std::string(8, '\0')});
  Write("model.safetensors", SafetensorsBytes(tensors_));
  auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), tensors_.size() - 2);
}

TEST_F(CheckpointTest, MissingFilesAreNamed) {
  ExpectError(absl::StatusCode::kNotFound, {dir_, "model.safetensors"});
  std::filesystem::remove(absl::StrCat(dir_, "/config.json"));
  ExpectError(absl::StatusCode::kNotFound, {"config.json"});
  dir_ += "/nowhere";
  ExpectError(absl::StatusCode::kNotFound, {"nowhere"});
}

TEST_F(CheckpointTest, OtherFormatsAreRefusedByName) {
  for (const auto& [file, word] :
       {std::pair("pytorch_model.bin", ".bin"), std::pair("model-q4.gguf", "GGUF"),
        std::pair("consolidated.pth", ".pth")}) {
    Write(file, "x");
    ExpectError(absl::StatusCode::kUnimplemented, {file, word, "safetensors"});
    std::filesystem::remove(absl::StrCat(dir_, "/", file));
  }
  Write("model.safetensors", SafetensorsBytes(tensors_));
  Write("quantize_config.json", R"({"bits": 3})");
  ExpectError(absl::StatusCode::kUnimplemented,
              {"quantize_config.json", "\"bits\" is 3", "4 and 8"});
}

// The description may lie in config.json, beside it, or in both: then they must agree.
TEST_F(CheckpointTest, ReadsTheQuantisationFromBothPlaces) {
  Write("model.safetensors", SafetensorsBytes(tensors_));
  const auto config_with = [&](const char* quantization) {
    Json config = *ParseJson(kConfig, "x");
    config["quantization_config"] = *ParseJson(quantization, "x");
    Write("config.json", config.dump());
  };
  Write("quantize_config.json", R"({"bits": 8, "group_size": -1, "desc_act": true})");
  auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::string beside = (*checkpoint)->HashContent();
  EXPECT_EQ((*checkpoint)->config().quantization->bits, 8);
  EXPECT_EQ((*checkpoint)->config().quantization->group_size, -1);
  EXPECT_TRUE((*checkpoint)->config().quantization->act_order);
  EXPECT_TRUE((*checkpoint)->config().quantization->zero_minus_one);
  Write("quantize_config.json",
        R"({"bits": 8, "group_size": -1, "desc_act": true, "checkpoint_format": "gptq_v2"})");
  checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE((*checkpoint)->config().quantization->zero_minus_one);
  EXPECT_NE((*checkpoint)->HashContent(), beside);
  config_with(R"({"quant_method": "gptq", "bits": 8, "group_size": 128})");
  ExpectError(absl::StatusCode::kInvalidArgument,
              {"quantize_config.json", "\"group_size\" is -1", "config.json", "128"});
  Write("quantize_config.json", R"({"quant_method": "gptq", "bits": 4})");
  config_with(R"({"quant_method": "awq", "bits": 4})");
  ExpectError(absl::StatusCode::kInvalidArgument, {"\"quant_method\"", "gptq", "awq"});
  std::filesystem::remove(dir_ + "/quantize_config.json");
  Write("quant_config.json",
        R"({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"})");
  config_with(R"({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"})");
  ExpectError(absl::StatusCode::kInvalidArgument, {"group_size", "64"});
  config_with(R"({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"})");
  checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->config().quantization->method, QuantizationMethod::kAwq);
  EXPECT_EQ((*checkpoint)->config().quantization->group_size, 64);
}

TEST_F(CheckpointTest, OtherElementTypesAreRefusedByName) {
  const auto with = [&](const std::string& name, const std::string& dtype, int64_t bytes) {
    std::vector<RawTensor> tensors = tensors_;
    tensors.push_back({name, dtype, {1}, std::string(bytes, '\0')});
    Write("model.safetensors", SafetensorsBytes(tensors));
  };
  with("w", "F8_E4M3", 1);
  ExpectError(absl::StatusCode::kUnimplemented, {"\"w\"", "FP8", "bf16"});
  with("model.layers.0.mlp.up_proj.qweight", "I32", 4);
  ExpectError(absl::StatusCode::kInvalidArgument, {"qweight", "GPTQ or AWQ", "config.json"});
  with("w", "I64", 8);
  ExpectError(absl::StatusCode::kInvalidArgument, {"\"w\"", "I64", "BF16"});
}

TEST_F(CheckpointTest, ATensorInTwoShardsIsRefusedNamingBoth) {
  WriteShards();
  std::vector<RawTensor> second(tensors_.begin() + tensors_.size() / 2, tensors_.end());
  second.push_back(tensors_[0]);
  Write("b.safetensors", SafetensorsBytes(second));
  ExpectError(absl::StatusCode::kInvalidArgument,
              {tensors_[0].name, "a.safetensors", "b.safetensors", "both"});
}

TEST_F(CheckpointTest, AnIndexThatContradictsItsFilesIsRefused) {
  const std::string first = tensors_[0].name;
  WriteShards({{"weight_map", {{first, "b.safetensors"}}}});
  ExpectError(absl::StatusCode::kInvalidArgument, {first, "a.safetensors", "b.safetensors"});
  WriteShards({{"weight_map", {{first, nullptr}}}});  // the patch removes the entry
  ExpectError(absl::StatusCode::kInvalidArgument, {first, "nothing about it"});
  WriteShards({{"weight_map", {{"ghost", "a.safetensors"}}}});
  ExpectError(absl::StatusCode::kInvalidArgument, {"ghost", "not in", "a.safetensors"});
  WriteShards({{"weight_map", {{"ghost", "c.safetensors"}}}});
  ExpectError(absl::StatusCode::kNotFound, {"c.safetensors"});
}

TEST_F(CheckpointTest, ABadIndexIsRefused) {
  for (const char* index :
       {"{}", "[]", R"({"weight_map": []})", R"({"weight_map": {}})",
        R"({"weight_map": {"w": "../other/model.safetensors"}})",
        R"({"weight_map": {"w": "a\nb.safetensors"}})", R"({"weight_map": {"w\n": 3}})",
        R"({"weight_map": {"w": "model.bin"}})", R"({"weight_map": {"w": 3}})", "{"}) {
    Write("model.safetensors.index.json", index);
    ExpectError(absl::StatusCode::kInvalidArgument, {"model.safetensors.index.json"});
  }
}

}  // namespace
}  // namespace qwenserve
