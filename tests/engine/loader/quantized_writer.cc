#include "tests/engine/loader/quantized_writer.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

// A tensor of int32 words, filled number by number.
class Words {
 public:
  Words(std::string name, int64_t rows, int64_t columns)
      : tensor_{std::move(name), "I32", {rows, columns}, ""},
        words_(static_cast<size_t>(rows * columns)) {}

  void Put(int64_t row, int64_t column, int shift, uint32_t value) {
    words_[row * tensor_.shape[1] + column] |= value << shift;
  }
  RawTensor Take() {
    tensor_.data.assign(reinterpret_cast<const char*>(words_.data()), words_.size() * 4);
    return tensor_;
  }

 private:
  RawTensor tensor_;
  std::vector<uint32_t> words_;
};

RawTensor Halves(std::string name, std::vector<int64_t> shape,
                 const std::vector<uint16_t>& halves) {
  return {std::move(name), "F16", std::move(shape),
          std::string(reinterpret_cast<const char*>(halves.data()), halves.size() * 2)};
}

// One module's numbers, each in its own place.
struct Module {
  std::string name;
  int64_t out = 0, in = 0, groups = 0;
  std::vector<uint32_t> codes;   // [out][in]
  std::vector<uint32_t> zeros;   // [out][groups]
  std::vector<uint16_t> scales;  // [out][groups]
  std::vector<int32_t> g_idx;    // [in]
};

Module DrawModule(const std::string& name, const std::vector<int64_t>& shape,
                  const QuantizedStyle& style, uint32_t order_seed, std::mt19937& random) {
  Module module = {name, shape[0], shape[1], 0, {}, {}, {}, {}};
  const int64_t group_size = style.group_size < 0 ? module.in : style.group_size;
  module.groups = (module.in + group_size - 1) / group_size;
  const uint32_t codes = 1u << style.bits;
  for (int64_t i = 0; i < module.out * module.in; ++i) module.codes.push_back(random() % codes);
  for (int64_t i = 0; i < module.out * module.groups; ++i) {
    // Weights of about 0.02 whatever the codes: scales from 2^-8 or 2^-12 to four times that.
    const uint32_t lowest_scale = style.bits == 4 ? 0x1c00 : 0x0c00;
    module.scales.push_back(static_cast<uint16_t>(lowest_scale + random() % 0x800));
    // Zero points of AWQ begin at 0, those of GPTQ v1 at 1.
    const uint32_t lowest = style.method == "gptq" && !style.v2 ? 1 : 0;
    module.zeros.push_back(style.symmetric ? codes / 2 : lowest + random() % (codes - lowest));
  }
  for (int64_t i = 0; i < module.in; ++i) {
    module.g_idx.push_back(static_cast<int32_t>(i / group_size));
  }
  if (style.act_order) {
    std::mt19937 order(order_seed);
    std::shuffle(module.g_idx.begin(), module.g_idx.end(), order);
  }
  return module;
}

void WriteGptq(const Module& module, const QuantizedStyle& style, bool with_bias,
               std::vector<RawTensor>& tensors) {
  const int64_t per_word = 32 / style.bits;
  Words qweight(module.name + ".qweight", module.in / per_word, module.out);
  Words qzeros(module.name + ".qzeros", module.groups, module.out / per_word);
  std::vector<uint16_t> scales(module.scales.size());
  for (int64_t o = 0; o < module.out; ++o) {
    for (int64_t i = 0; i < module.in; ++i) {
      qweight.Put(i / per_word, o, static_cast<int>(i % per_word) * style.bits,
                  module.codes[o * module.in + i]);
    }
    for (int64_t g = 0; g < module.groups; ++g) {
      qzeros.Put(g, o / per_word, static_cast<int>(o % per_word) * style.bits,
                 module.zeros[o * module.groups + g] - (style.v2 ? 0 : 1));
      scales[g * module.out + o] = module.scales[o * module.groups + g];
    }
  }
  tensors.push_back(qweight.Take());
  tensors.push_back(qzeros.Take());
  tensors.push_back(Halves(module.name + ".scales", {module.groups, module.out}, scales));
  tensors.push_back(
      {module.name + ".g_idx",
       "I32",
       {module.in},
       std::string(reinterpret_cast<const char*>(module.g_idx.data()), module.g_idx.size() * 4)});
  if (!with_bias) return;
  tensors.push_back(Halves(module.name + ".bias", {module.out},
                           std::vector<uint16_t>(static_cast<size_t>(module.out))));
}

void WriteAwq(const Module& module, std::vector<RawTensor>& tensors) {
  constexpr int kOutputOf[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // by place from the lowest bits
  Words qweight(module.name + ".qweight", module.in, module.out / 8);
  Words qzeros(module.name + ".qzeros", module.groups, module.out / 8);
  std::vector<uint16_t> scales(module.scales.size());
  for (int64_t c = 0; c < module.out / 8; ++c) {
    for (int place = 0; place < 8; ++place) {
      const int64_t o = 8 * c + kOutputOf[place];
      for (int64_t i = 0; i < module.in; ++i) {
        qweight.Put(i, c, 4 * place, module.codes[o * module.in + i]);
      }
      for (int64_t g = 0; g < module.groups; ++g) {
        qzeros.Put(g, c, 4 * place, module.zeros[o * module.groups + g]);
        scales[g * module.out + o] = module.scales[o * module.groups + g];
      }
    }
  }
  tensors.push_back(qweight.Take());
  tensors.push_back(qzeros.Take());
  tensors.push_back(Halves(module.name + ".scales", {module.groups, module.out}, scales));
}

std::vector<float> ValuesOf(const Module& module) {
  std::vector<float> values;
  for (int64_t o = 0; o < module.out; ++o) {
    for (int64_t i = 0; i < module.in; ++i) {
      const int64_t slot = o * module.groups + module.g_idx[i];
      const int number =
          static_cast<int>(module.codes[o * module.in + i]) - static_cast<int>(module.zeros[slot]);
      values.push_back(F16ToFloat(module.scales[slot]) * static_cast<float>(number));
    }
  }
  return values;
}

}  // namespace

Json QuantizedStyle::QuantizationConfig() const {
  if (method == "awq") {
    return {{"quant_method", "awq"},
            {"bits", bits},
            {"group_size", group_size},
            {"zero_point", true},
            {"version", "gemm"}};
  }
  Json json = {{"quant_method", "gptq"}, {"bits", bits},     {"group_size", group_size},
               {"desc_act", act_order},  {"sym", symmetric}, {"damp_percent", 0.01}};
  if (v2) json["checkpoint_format"] = "gptq_v2";
  return json;
}

RawTensor& QuantizedCheckpoint::Tensor(const std::string& name) {
  for (RawTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << name;
  return tensors[0];
}

std::vector<float> QuantizedCheckpoint::Row(const std::string& name, int64_t row) const {
  const std::vector<float>& all = values.at(name);
  const int64_t width = widths.at(name);
  return {all.begin() + row * width, all.begin() + (row + 1) * width};
}

QuantizedCheckpoint RandomQuantizedCheckpoint(const Json& config, const QuantizedStyle& style,
                                              uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  QuantizedCheckpoint checkpoint;
  checkpoint.config = config;
  const std::vector<RawTensor> plain = ModelTensors(config);
  const auto has = [&](const std::string& name) {
    return std::any_of(plain.begin(), plain.end(),
                       [&](const RawTensor& tensor) { return tensor.name == name; });
  };
  for (const RawTensor& tensor : plain) {
    checkpoint.widths[tensor.name] = tensor.shape.back();
    const std::string name(absl::StripSuffix(tensor.name, ".weight"));
    const bool table = absl::EndsWith(name, "embed_tokens") || absl::EndsWith(name, "wte") ||
                       (name == "lm_head" && !style.head);
    if (tensor.shape.size() == 2 && !table) {
      // Modules that read the same inputs have the same order, as the algorithm makes it.
      const auto order_seed = static_cast<uint32_t>(seed + tensor.shape[1]);
      const Module module = DrawModule(name, tensor.shape, style, order_seed, random);
      checkpoint.values[tensor.name] = ValuesOf(module);
      if (style.method == "awq") {
        WriteAwq(module, checkpoint.tensors);
      } else {
        WriteGptq(module, style, style.biases && !has(name + ".bias"), checkpoint.tensors);
      }
      continue;
    }
    std::vector<uint16_t> halves(tensor.data.size() / 2);
    std::vector<float>& values = checkpoint.values[tensor.name];
    for (uint16_t& half : halves) {
      half = FloatToF16(normal(random) + (absl::StrContains(name, "norm") ? 1.0f : 0.0f));
      values.push_back(F16ToFloat(half));
    }
    checkpoint.tensors.push_back(Halves(tensor.name, tensor.shape, halves));
  }
  checkpoint.config["quantization_config"] = style.QuantizationConfig();
  return checkpoint;
}

}  // namespace qwenserve
