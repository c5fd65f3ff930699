#include "engine/quantize/gptq_format.h"

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr int kWordBits = 32;

}  // namespace

GptqTensors PackGptq(const QuantizedMatrix& matrix, int64_t begin, int64_t end) {
  const int per_word = kWordBits / matrix.bits;
  const int64_t out = end - begin, in = matrix.in_features;
  QS_CHECK(begin >= 0 && end <= matrix.out_features && out % per_word == 0 && in % per_word == 0);
  GptqTensors tensors;
  std::vector<uint32_t> words(static_cast<size_t>(in / per_word * out));
  for (int64_t o = 0; o < out; ++o) {
    const uint8_t* codes = matrix.codes.data() + (begin + o) * in;
    for (int64_t i = 0; i < in; ++i) {
      words[i / per_word * out + o] |= uint32_t{codes[i]} << (i % per_word * matrix.bits);
    }
  }
  tensors.qweight.assign(words.begin(), words.end());
  uint32_t zeros = 0;
  for (int j = 0; j < per_word; ++j) {
    zeros |= static_cast<uint32_t>(matrix.zero() - 1) << (j * matrix.bits);
  }
  tensors.qzeros.assign(static_cast<size_t>(matrix.groups * (out / per_word)),
                        static_cast<int32_t>(zeros));
  for (int64_t g = 0; g < matrix.groups; ++g) {
    for (int64_t o = begin; o < end; ++o) {
      tensors.scales.push_back(matrix.scales[o * matrix.groups + g]);
    }
  }
  tensors.g_idx = matrix.group_of;
  return tensors;
}

std::vector<TensorPlan> GptqTensorPlans(absl::string_view module, int64_t out, int64_t in,
                                        const GptqOptions& options) {
  const int64_t per_word = kWordBits / options.bits;
  const int64_t groups = (in + options.group_size - 1) / options.group_size;
  return {{absl::StrCat(module, ".qweight"), "I32", {in / per_word, out}},
          {absl::StrCat(module, ".qzeros"), "I32", {groups, out / per_word}},
          {absl::StrCat(module, ".scales"), "F16", {groups, out}},
          {absl::StrCat(module, ".g_idx"), "I32", {in}}};
}

absl::Status CheckFitsGptqLayout(absl::string_view module, int64_t out, int64_t in, int bits) {
  const int64_t per_word = kWordBits / bits;
  if (in % per_word == 0 && out % per_word == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", module, "\" has ", in, " inputs and ", out, " outputs; the GPTQ layout packs ",
      per_word, " of each into a word, so both must be multiples of ", per_word));
}

Json GptqQuantizeConfig(const GptqOptions& options) {
  Json json;
  json["bits"] = options.bits;
  json["group_size"] = options.group_size;
  json["damp_percent"] = options.damping;
  json["desc_act"] = options.act_order;
  json["static_groups"] = false;
  json["sym"] = true;
  json["true_sequential"] = true;
  json["model_name_or_path"] = nullptr;
  json["model_file_base_name"] = "model";
  return json;
}

}  // namespace qwenserve
