#include "engine/quantize/quantizer.h"

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "engine/base/json_reader.h"
#include "engine/base/mapped_file.h"
#include "engine/evaluate/logit_runner.h"
#include "engine/loader/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/dtype.h"
#include "tests/engine/loader/checkpoint_writer.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

CalibrationIds SomeIds(int64_t pieces, int64_t length) {
  CalibrationIds ids(static_cast<size_t>(pieces));
  for (int64_t i = 0; i < pieces * length; ++i) {
    ids[i / length].push_back(static_cast<int32_t>((i * i + 11 * i) % 320));
  }
  return ids;
}

// The tensors of a file, by name.
class Tensors {
 public:
  explicit Tensors(const std::string& dir) : file_(*MappedFile::Open(dir + "/model.safetensors")) {
    const auto entries = *ParseSafetensors(file_->bytes(), file_->path());
    for (const SafetensorsEntry& entry : entries) entries_[entry.name] = entry;
  }
  bool Has(const std::string& name) const { return entries_.count(name) > 0; }
  size_t size() const { return entries_.size(); }
  const SafetensorsEntry& Entry(const std::string& name) const { return entries_.at(name); }
  std::string Bytes(const std::string& name) const {
    const auto data = *file_->Slice(Entry(name).offset, Entry(name).bytes);
    return std::string(data.begin(), data.end());
  }
  template <typename T>
  std::vector<T> Values(const std::string& name) const {
    const std::string bytes = Bytes(name);
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  // The weights [out, in] of a module, by the definition of the layout.
  std::vector<float> Dequantize(const std::string& module, int bits) const {
    const auto qweight = Values<uint32_t>(module + ".qweight"),
               qzeros = Values<uint32_t>(module + ".qzeros");
    const auto scales = Values<uint16_t>(module + ".scales");
    const auto g_idx = Values<int32_t>(module + ".g_idx");
    const int64_t out = Entry(module + ".qweight").shape[1],
                  in = static_cast<int64_t>(g_idx.size());
    const int64_t per_word = 32 / bits;
    const uint32_t mask = (1u << bits) - 1;
    std::vector<float> weights;
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        const int64_t g = g_idx[i];
        const uint32_t code = qweight[i / per_word * out + o] >> (i % per_word * bits) & mask;
        const uint32_t zero =
            qzeros[g * (out / per_word) + o / per_word] >> (o % per_word * bits) & mask;
        weights.push_back(F16ToFloat(scales[g * out + o]) *
                          (static_cast<float>(code) - static_cast<float>(zero + 1)));
      }
    }
    return weights;
  }

 private:
  std::unique_ptr<MappedFile> file_;
  std::map<std::string, SafetensorsEntry> entries_;
};

class QuantizerTest : public testing::TestWithParam<const char*> {
 protected:
  static TinyModel Model() {
    TinyModel model;
    model.architecture = GetParam();
    if (model.architecture == "QWenLMHeadModel") model.num_kv_heads = model.num_query_heads;
    return model;
  }
  static std::string FreshOut(const std::string& name) { return FreshDir(name) + "/out"; }
};

std::string StyleName(const testing::TestParamInfo<const char*>& info) { return info.param; }

TEST_P(QuantizerTest, CalibratesOnTheEnginesOwnActivations) {
  // With the checkpoint's own weights between the steps, the residual stream at the end must give
  // the logits of the engine, bit for bit.
  const auto checkpoint = *Checkpoint::Open(WriteTinyCheckpoint("calibration", Model()));
  const auto source = *LayerSource::Create(*checkpoint);
  const ModelConfig& config = checkpoint->config();
  const auto backend = *MakeCpuBackend({.num_threads = 2});
  ThreadPool pool(2, {});
  const CalibrationIds ids = SomeIds(3, 40);
  const auto pass = *CalibrationPass::Create(source, ids, *backend, pool, [] { return false; });
  const auto pack = [&](int64_t layer, WeightField field) {
    std::vector<RowBlock> blocks;
    for (const TensorRef* tensor : source.Find(layer, field)->tensors) {
      blocks.push_back({tensor->data, tensor->dtype, tensor->shape[0], tensor->shape[1]});
    }
    return *backend->PackLinear(blocks, source.Find(layer, field)->columns);
  };
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    ASSERT_TRUE(pass->Begin(layer).ok());
    ASSERT_TRUE(pass->QkvInputs().ok());
    ASSERT_TRUE(pass->AttnOutInputs(pack(layer, WeightField::kQkv)).ok());
    ASSERT_TRUE(pass->GateUpInputs(pack(layer, WeightField::kAttnOut)).ok());
    const LinearWeight gate_up = pack(layer, WeightField::kGateUp);
    ASSERT_TRUE(pass->DownInputs(gate_up).ok());
    ASSERT_TRUE(pass->End(gate_up, pack(layer, WeightField::kDown)).ok());
  }
  const std::vector<float> norm = source.Read(-1, WeightField::kFinalNorm);
  const LinearWeight head =
      pack(-1, source.Find(-1, WeightField::kHead) != nullptr ? WeightField::kHead
                                                              : WeightField::kEmbedding);
  const Buffer hidden = *backend->Allocate(pass->tokens() * config.hidden_size * sizeof(float));
  std::vector<float> logits(pass->tokens() * config.vocab_size);
  backend->RmsNorm(pass->residual(), pass->tokens(), config.hidden_size, norm.data(),
                   config.norm_epsilon, hidden.as<float>());
  backend->Linear(hidden.as<float>(), pass->tokens(), head, nullptr, logits.data());

  const auto runner = *LogitRunner::Create(*checkpoint, {});
  for (size_t piece = 0; piece < ids.size(); ++piece) {
    const auto expected = runner->Run(ids[piece], 0, 40);
    ASSERT_TRUE(expected.ok());
    for (size_t i = 0; i < expected->size(); ++i) {
      ASSERT_EQ(logits[piece * expected->size() + i], (*expected)[i]) << piece << ", " << i;
    }
  }
}

TEST_P(QuantizerTest, WritesTheGptqLayoutOfTheStyle) {
  const TinyModel model = Model();
  const bool first_generation = model.architecture == "QWenLMHeadModel";
  QuantizeOptions options;
  options.model_dir = WriteTinyCheckpoint("quantizer", model);
  WriteFile(options.model_dir + "/tokenizer.json", "{}");
  for (int bits : {4, 8}) {
    options.out_dir = FreshOut("quantizer_out");
    options.gptq.bits = bits;
    options.gptq.group_size = 32;
    options.num_threads = 2;
    int64_t calls = 0;
    const auto report = QuantizeCheckpoint(
        options, SomeIds(8, 64), [&](const QuantizeProgress&) { ++calls; }, [] { return false; });
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(calls, 2 * 4);
    EXPECT_EQ(report->calibration_tokens, 512);
    EXPECT_LT(report->mean_relative_error, bits == 4 ? 0.02 : 1e-4);

    const Tensors before(options.model_dir), after(options.out_dir);
    int64_t modules = 0;
    const auto checkpoint = *Checkpoint::Open(options.model_dir);
    for (const TensorRef& tensor : checkpoint->tensors()) {
      const std::string module = tensor.name.substr(0, tensor.name.size() - 7);
      const bool is_layer_matrix =
          tensor.shape.size() == 2 &&
          (absl::StrContains(tensor.name, ".0.") || absl::StrContains(tensor.name, ".1."));
      if (!is_layer_matrix) {
        EXPECT_EQ(after.Bytes(tensor.name), before.Bytes(tensor.name)) << tensor.name;
        continue;
      }
      ++modules;
      EXPECT_FALSE(after.Has(tensor.name));
      EXPECT_EQ(after.Has(module + ".bias"), first_generation || before.Has(module + ".bias"));
      // Every weight within one step or so of what it was: GPTQ moves some further than rounding.
      const std::vector<float> weights = after.Dequantize(module, bits);
      const auto bf16 = before.Values<uint16_t>(tensor.name);
      ASSERT_EQ(weights.size(), bf16.size());
      double error = 0, size = 0;
      for (size_t i = 0; i < weights.size(); ++i) {
        const double weight = Bf16ToFloat(bf16[i]);
        error += (weights[i] - weight) * (weights[i] - weight);
        size += weight * weight;
      }
      EXPECT_LT(error / size, bits == 4 ? 0.03 : 1e-4) << tensor.name;
    }
    EXPECT_EQ(modules, 2 * (first_generation ? 5 : 7));
    if (first_generation) {
      const auto bias = after.Values<uint16_t>("transformer.h.1.mlp.c_proj.bias");
      EXPECT_THAT(bias, testing::Each(0));
      EXPECT_EQ(bias.size(), 64u);
    }
    const Json config = *ReadJsonFile(options.out_dir + "/config.json");
    EXPECT_EQ(config["quantization_config"]["quant_method"], "gptq");
    EXPECT_EQ(config["quantization_config"]["bits"], bits);
    EXPECT_EQ(config["hidden_size"], 64);
    EXPECT_EQ((*ReadJsonFile(options.out_dir + "/quantize_config.json"))["group_size"], 32);
    EXPECT_TRUE(std::filesystem::exists(options.out_dir + "/tokenizer.json"));
  }
}

INSTANTIATE_TEST_SUITE_P(Styles, QuantizerTest,
                         testing::Values("QWenLMHeadModel", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
                         StyleName);

absl::Status Quantize(const QuantizeOptions& options, const CalibrationIds& ids = SomeIds(2, 32)) {
  return QuantizeCheckpoint(options, ids, nullptr, [] { return false; }).status();
}

TEST(QuantizerErrorTest, NamesWhatIsWrongAndLeavesNothing) {
  QuantizeOptions options;
  options.model_dir = WriteTinyCheckpoint("quantizer_errors", {});
  const std::string base = FreshDir("quantizer_errors_out");
  options.out_dir = base + "/out";

  options.gptq.bits = 5;
  EXPECT_THAT(std::string(Quantize(options).message()), HasSubstr("bits is 5"));
  options.gptq.bits = 4;
  EXPECT_THAT(std::string(Quantize(options, {{1, 2, 320}}).message()),
              HasSubstr("id 320 of a vocabulary of 320"));
  const absl::Status cancelled =
      QuantizeCheckpoint(options, SomeIds(2, 32), nullptr, [] { return true; }).status();
  EXPECT_EQ(cancelled.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(std::filesystem::is_empty(base));

  std::filesystem::create_directory(options.out_dir);
  EXPECT_EQ(Quantize(options).code(), absl::StatusCode::kAlreadyExists);
  options.out_dir = base + "/other";
  TinyModel narrow;
  narrow.ffn_size = 100;
  options.model_dir = WriteTinyCheckpoint("quantizer_narrow", narrow);
  const absl::Status status = Quantize(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("gate_proj\" has 64 inputs and 100 outputs"));
  EXPECT_FALSE(std::filesystem::exists(base + "/other"));
}

TEST(QuantizerErrorTest, NamesTheTensorWhoseInputsAreNotFinite) {
  QuantizeOptions options;
  options.model_dir = WriteTinyCheckpoint("quantizer_nan", {});
  options.out_dir = FreshDir("quantizer_nan_out") + "/out";
  // One weight of the norm behind the first attention becomes infinite.
  std::string bytes;
  {
    const std::string path = options.model_dir + "/model.safetensors";
    const auto file = *MappedFile::Open(path);
    bytes.assign(file->bytes().begin(), file->bytes().end());
    const auto entries = *ParseSafetensors(file->bytes(), path);
    for (const SafetensorsEntry& entry : entries) {
      if (entry.name != "model.layers.0.post_attention_layernorm.weight") continue;
      bytes[entry.offset] = static_cast<char>(0x80);
      bytes[entry.offset + 1] = static_cast<char>(0x7f);
    }
  }
  WriteFile(options.model_dir + "/model.safetensors", bytes);
  const absl::Status status = Quantize(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("model.layers.0.mlp.gate_proj.weight: 1 of 64 inputs became NaN"));
}

TEST(QuantizerErrorTest, RefusesWhatIsQuantisedAlready) {
  QuantizeOptions options;
  options.model_dir = WriteTinyCheckpoint("quantizer_twice", {});
  const std::string base = FreshDir("quantizer_twice_out");
  options.out_dir = base + "/once";
  ASSERT_TRUE(Quantize(options).ok());
  options.model_dir = options.out_dir;
  options.out_dir = base + "/twice";
  const absl::Status status = Quantize(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("(\"gptq\") says"));

  // The first official ones say so in quantize_config.json alone.
  Json config = *ReadJsonFile(options.model_dir + "/config.json");
  config.erase("quantization_config");
  WriteFile(options.model_dir + "/config.json", config.dump());
  const absl::Status older = Quantize(options);
  EXPECT_EQ(older.code(), absl::StatusCode::kFailedPrecondition) << older;
  EXPECT_THAT(std::string(older.message()), HasSubstr("(GPTQ, 4 bits, groups of 128)"));
}

TEST(QuantizerErrorTest, EveryGroupSizeThatItWritesLoads) {
  QuantizeOptions options;
  options.model_dir = WriteTinyCheckpoint("quantizer_groups", {});
  const std::string base = FreshDir("quantizer_groups_out");
  for (const int64_t size : {32, 64, 128}) {
    options.gptq.group_size = size;
    options.out_dir = base + "/" + std::to_string(size);
    const absl::Status status = Quantize(options);
    ASSERT_TRUE(status.ok()) << status;
    const auto checkpoint = Checkpoint::Open(options.out_dir);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto runner = LogitRunner::Create(**checkpoint, {});
    ASSERT_TRUE(runner.ok()) << runner.status();
    EXPECT_TRUE((*runner)->Run({1, 2, 3}, 0, 3).ok());
  }
}

}  // namespace
}  // namespace qwenserve
