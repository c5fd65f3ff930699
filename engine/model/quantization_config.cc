#include "engine/model/quantization_config.h"

#include <bit>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/config_reader.h"

namespace qwenserve {
namespace {

constexpr absl::string_view kUseOther = "use the bf16 or fp16 checkpoint of the model";

// Fields that matter, by the name that transformers gives them.
constexpr struct {
  absl::string_view name;
  absl::string_view other;  // of AutoAWQ's own file, or of newer GPTQ tools
} kFields[] = {
    {"quant_method", ""}, {"bits", "w_bit"},  {"group_size", "q_group_size"},  {"desc_act", ""},
    {"sym", ""},          {"version", ""},    {"checkpoint_format", "format"}, {"zero_point", ""},
    {"dynamic", ""},      {"pack_dtype", ""}, {"is_marlin_format", ""}};

Json Lowered(const Json& value) {
  return value.is_string() ? Json(absl::AsciiStrToLower(value.get<std::string>())) : value;
}

// The fields that matter under their first names, text in lower case.
absl::StatusOr<Json> Normalized(const QuantizationJson& from) {
  if (!from.json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(from.source, ": is not an object"));
  }
  const ConfigReader reader(*from.json, from.source);
  Json fields = Json::object();
  for (const auto& field : kFields) {
    const Json* value = reader.Find(field.name);
    const Json* other = field.other.empty() ? nullptr : reader.Find(field.other);
    if (value != nullptr && other != nullptr && Lowered(*value) != Lowered(*other)) {
      return reader.Invalid(field.name, absl::StrCat("is ", ShownJson(*value), ", but \"",
                                                     field.other, "\" is ", ShownJson(*other)));
    }
    if (value == nullptr) value = other;
    if (value != nullptr) fields[std::string(field.name)] = Lowered(*value);
  }
  return fields;
}

absl::Status Merge(const Json& from, const std::string& from_source, Json& into,
                   const std::string& into_source) {
  for (const auto& [name, value] : from.items()) {
    const auto known = into.find(name);
    if (known != into.end() && *known != value) {
      return absl::InvalidArgumentError(absl::StrCat(from_source, ": \"", name, "\" is ",
                                                     ShownJson(value), ", but ", into_source,
                                                     " says ", ShownJson(*known)));
    }
    into[name] = value;
  }
  return absl::OkStatus();
}

absl::Status ReadMethod(const ConfigReader& reader, QuantizationConfig& config) {
  QS_ASSIGN_OR_RETURN(const std::string method, reader.String("quant_method", "unnamed"));
  if (method != "gptq" && method != "awq") {
    return reader.Unsupported(
        "quant_method", method,
        absl::StrCat(method == "fp8" ? "FP8" : "this format", " is not supported; ", kUseOther));
  }
  config.method = method == "awq" ? QuantizationMethod::kAwq : QuantizationMethod::kGptq;
  return absl::OkStatus();
}

absl::Status ReadGptq(const ConfigReader& reader, QuantizationConfig& config) {
  QS_ASSIGN_OR_RETURN(const std::string format, reader.String("checkpoint_format", "gptq"));
  if (format != "gptq" && format != "gptq_v2") {
    return reader.Unsupported("checkpoint_format", format,
                              "only gptq and gptq_v2 are supported; convert the checkpoint");
  }
  config.zero_minus_one = format == "gptq";
  QS_ASSIGN_OR_RETURN(const bool marlin, reader.Bool("is_marlin_format", false));
  if (marlin) {
    return reader.Unsupported("is_marlin_format", marlin,
                              "only the layout of AutoGPTQ is supported; convert the checkpoint");
  }
  QS_ASSIGN_OR_RETURN(const std::string words, reader.String("pack_dtype", "int32"));
  if (words != "int32") return reader.Unsupported("pack_dtype", words, "only int32 is supported");
  if (const Json* rules = reader.Find("dynamic"); rules != nullptr && rules->is_object()) {
    for (const auto& [pattern, rule] : rules->items()) {
      // "-:" leaves modules in float, which their tensors tell; others change bits or groups.
      if (!absl::StartsWith(pattern, "-:")) {
        return reader.Unsupported("dynamic", pattern,
                                  "settings of single modules are not supported");
      }
    }
  }
  QS_ASSIGN_OR_RETURN(config.act_order, reader.Bool("desc_act", false));
  QS_ASSIGN_OR_RETURN(config.symmetric, reader.Bool("sym", false));
  return absl::OkStatus();
}

absl::Status ReadAwq(const ConfigReader& reader, QuantizationConfig& config) {
  for (const char* field : {"version", "checkpoint_format"}) {
    QS_ASSIGN_OR_RETURN(const std::string layout, reader.String(field, "gemm"));
    if (layout != "gemm") {
      return reader.Unsupported(field, layout,
                                "only GEMM is supported; convert the AWQ checkpoint");
    }
  }
  QS_ASSIGN_OR_RETURN(const bool zero_point, reader.Bool("zero_point", true));
  if (!zero_point) {
    return reader.Unsupported("zero_point", zero_point, "only AWQ with zero points is supported");
  }
  if (config.bits != 4) {
    return reader.Unsupported("bits", config.bits, "AWQ is supported with 4 bits");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QuantizationConfig> ParseQuantization(const QuantizationJson& in_config,
                                                     const QuantizationJson& beside_it) {
  Json fields = Json::object();
  std::string source = in_config.source;
  if (in_config.json != nullptr) {
    QS_ASSIGN_OR_RETURN(fields, Normalized(in_config));
  }
  if (beside_it.json != nullptr) {
    QS_ASSIGN_OR_RETURN(Json file, Normalized(beside_it));
    // AutoGPTQ and AutoAWQ need not say what everybody knows of their files.
    if (!file.contains("quant_method")) {
      file["quant_method"] = absl::EndsWith(beside_it.source, "quant_config.json") ? "awq" : "gptq";
    }
    if (in_config.json == nullptr) source = beside_it.source;
    QS_RETURN_IF_ERROR(Merge(file, beside_it.source, fields, source));
  }
  const ConfigReader reader(fields, source);
  QuantizationConfig config;
  QS_RETURN_IF_ERROR(ReadMethod(reader, config));
  QS_ASSIGN_OR_RETURN(config.bits, reader.Integer({"bits"}, 1, 32));
  if (config.bits != 4 && config.bits != 8) {
    return reader.Unsupported("bits", config.bits, "only 4 and 8 are supported");
  }
  QS_ASSIGN_OR_RETURN(config.group_size, reader.Integer({"group_size"}, -1, 1 << 20, 128));
  const auto size = static_cast<uint64_t>(config.group_size);
  if (config.group_size != -1 && !(size >= 32 && size <= 1024 && std::has_single_bit(size))) {
    return reader.Unsupported("group_size", config.group_size,
                              "only 32, 64, 128, 256, 512, 1024 and -1 (all inputs) are supported");
  }
  QS_RETURN_IF_ERROR(config.method == QuantizationMethod::kGptq ? ReadGptq(reader, config)
                                                                : ReadAwq(reader, config));
  return config;
}

std::string DescribeQuantization(const QuantizationConfig& config) {
  const bool gptq = config.method == QuantizationMethod::kGptq;
  return absl::StrCat(
      gptq ? "GPTQ" : "AWQ", gptq && !config.zero_minus_one ? " v2" : "", ", ", config.bits,
      " bits, ",
      config.group_size < 0 ? "one group" : absl::StrCat("groups of ", config.group_size),
      config.act_order ? ", act-order" : "");
}

}  // namespace qwenserve
