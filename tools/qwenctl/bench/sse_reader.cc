#include "tools/qwenctl/bench/sse_reader.h"

#include "absl/strings/strip.h"
#include "engine/base/json_reader.h"

namespace qwenserve {
namespace {

bool IsText(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() &&
         !found->get_ref<const std::string&>().empty();
}

bool HasText(const Json& choice) {
  if (!choice.is_object()) return false;
  if (IsText(choice, "text")) return true;
  const auto delta = choice.find("delta");
  if (delta == choice.end() || !delta->is_object()) return false;
  return IsText(*delta, "content") || IsText(*delta, "reasoning_content") ||
         delta->contains("tool_calls");
}

uint32_t Count(const Json& usage, const char* key) {
  const auto found = usage.find(key);
  return found != usage.end() && found->is_number_unsigned() ? found->get<uint32_t>() : 0;
}

}  // namespace

SseChunk ReadSseChunk(absl::string_view data) {
  SseChunk chunk;
  if (data == "[DONE]") {
    chunk.done = true;
    return chunk;
  }
  const absl::StatusOr<Json> json = ParseJson(data, "event");
  if (!json.ok() || !json->is_object()) {
    chunk.error = "malformed";
    return chunk;
  }
  if (const auto error = json->find("error"); error != json->end()) {
    chunk.error = error->is_object() && IsText(*error, "type") ? (*error)["type"] : "error";
    return chunk;
  }
  if (const auto choices = json->find("choices"); choices != json->end() && choices->is_array()) {
    for (const Json& choice : *choices) chunk.has_text = chunk.has_text || HasText(choice);
  }
  const auto usage = json->find("usage");
  if (usage != json->end() && usage->is_object()) {
    chunk.has_usage = true;
    chunk.prompt_tokens = Count(*usage, "prompt_tokens");
    chunk.completion_tokens = Count(*usage, "completion_tokens");
  }
  return chunk;
}

void SseReader::Push(absl::string_view bytes, const OnData& on_data) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    if (end == absl::string_view::npos) {
      line_.append(bytes.data(), bytes.size());
      return;
    }
    line_.append(bytes.data(), end);
    bytes.remove_prefix(end + 1);
    absl::string_view line = line_;
    absl::ConsumeSuffix(&line, "\r");
    if (absl::ConsumePrefix(&line, "data:")) {
      absl::ConsumePrefix(&line, " ");
      on_data(line);
    }
    line_.clear();
  }
}

}  // namespace qwenserve
