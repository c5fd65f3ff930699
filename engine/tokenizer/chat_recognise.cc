#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/chat_template.h"

namespace qwenserve {
namespace {

// What the text of a checkpoint's own template must and must not contain to be a known one. "\n"
// stands for both spellings of a newline, the character and the escape.
struct Markers {
  const char* name;
  std::vector<const char*> present;
  std::vector<const char*> absent;
};

constexpr char kTools[] = "<tools></tools> XML tags";
constexpr char kThinkingSwitch[] = "enable_thinking is false";
constexpr char kOpenThought[] = "<|im_start|>assistant\n<think>\n' }}";
constexpr char kGeneration[] = "<|im_start|>assistant\n' }}";
constexpr char kReasoning[] = "ns.last_query_index";
constexpr char kLongDefault[] =
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
    "assistant.<|im_end|>\n";
constexpr char kDefault[] = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
constexpr char kDefaultNoStop[] = "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n";
// Image templates, and models whose formats look alike but differ.
constexpr char kVision[] = "<|vision_start|>";
constexpr char kDefaultTurn[] = "<|im_start|>system\nYou are";

const std::vector<Markers>& KnownMarkers() {
  static const auto* const markers = new std::vector<Markers>{
      {"qwen1.5", {kDefaultNoStop, kGeneration}, {kTools, "<think>", kVision}},
      {"qwen2", {kDefault, kGeneration}, {kTools, "<think>", kVision}},
      {"qwen2.5", {kLongDefault, kTools, "<tool_response>", kGeneration}, {"<think>", kVision}},
      {"qwen3",
       {kTools, "<tool_response>", kReasoning, kThinkingSwitch, kGeneration},
       {kDefaultTurn, kOpenThought, kVision}},
      {"qwen3-thinking-2507",
       {kTools, "<tool_response>", kReasoning, kOpenThought},
       {kDefaultTurn, kThinkingSwitch, kVision}},
      {"qwen3-instruct-2507",
       {kTools, "<tool_response>", kGeneration},
       {kDefaultTurn, "<think>", kReasoning, kThinkingSwitch, kVision}},
  };
  return *markers;
}

bool Matches(const Markers& markers, absl::string_view text) {
  for (const char* marker : markers.present) {
    if (!absl::StrContains(text, marker)) return false;
  }
  for (const char* marker : markers.absent) {
    if (absl::StrContains(text, marker)) return false;
  }
  return true;
}

bool IsThere(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

absl::Status NotRecognised(absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat(what, "; name the prompt format with --chat-template"));
}

// chat_template of tokenizer_config.json: a text, or a list of named ones of which "default"
// counts. Empty when there is none.
absl::StatusOr<std::string> TemplateOfConfig(const std::string& path) {
  QS_ASSIGN_OR_RETURN(const Json config, ReadJsonFile(path));
  const auto it = config.is_object() ? config.find("chat_template") : config.end();
  if (it == config.end() || it->is_null()) return std::string();
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array()) {
    for (const Json& entry : *it) {
      if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
      const auto text = entry.find("template");
      if (text != entry.end() && text->is_string()) return text->get<std::string>();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": chat_template is not a text"));
}

absl::StatusOr<std::string> TemplateText(const std::string& model_dir) {
  const std::string jinja_path = absl::StrCat(model_dir, "/chat_template.jinja");
  if (IsThere(jinja_path)) {
    std::ifstream file(jinja_path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file) return absl::DataLossError(absl::StrCat(jinja_path, ": cannot be read"));
    return text;
  }
  const std::string config_path = absl::StrCat(model_dir, "/tokenizer_config.json");
  if (!IsThere(config_path)) return std::string();
  return TemplateOfConfig(config_path);
}

// Qwen1 has no template text: its own code knows the format, and generation_config.json tells
// chat models ("chatml") from base models ("raw").
absl::StatusOr<ChatTemplate> RecogniseQwen1(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/generation_config.json");
  if (!IsThere(path)) return NotRecognised(absl::StrCat(path, " is missing"));
  QS_ASSIGN_OR_RETURN(const Json config, ReadJsonFile(path));
  const auto it = config.is_object() ? config.find("chat_format") : config.end();
  if (it != config.end() && *it == "chatml") return ChatTemplate::ByName("qwen1");
  return NotRecognised(absl::StrCat(path, ": chat_format is ",
                                    it == config.end() ? "missing" : it->dump(),
                                    " where a chat model has \"chatml\""));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Recognise(const std::string& model_dir) {
  QS_ASSIGN_OR_RETURN(const std::string raw, TemplateText(model_dir));
  if (raw.empty()) {
    if (IsThere(absl::StrCat(model_dir, "/qwen.tiktoken"))) return RecogniseQwen1(model_dir);
    return NotRecognised(absl::StrCat(model_dir, ": the checkpoint has no chat template"));
  }
  const std::string text = absl::StrReplaceAll(raw, {{"\\n", "\n"}});
  for (const Markers& markers : KnownMarkers()) {
    if (Matches(markers, text)) return ByName(markers.name);
  }
  return NotRecognised(absl::StrCat(model_dir,
                                    ": the checkpoint's chat template is none of the "
                                    "known ones"));
}

}  // namespace qwenserve
