#include "services/gateway/tool_call_parser.h"

#include <algorithm>
#include <utility>

#include "engine/base/json_reader.h"
#include "services/gateway/text_util.h"

namespace qwenserve {
namespace {

constexpr absl::string_view kOpen = "<tool_call>";
constexpr absl::string_view kClose = "</tool_call>";
constexpr char kSpace[] = " \t\r\n";

// The end of the JSON value that begins at `begin` of valid JSON.
size_t ValueEnd(absl::string_view json, size_t begin) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = begin; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      if (--depth == 0) return i + 1;
    }
  }
  return json.size();
}

// The span of the object under `key` at the top level of `json`, a valid JSON object in which it
// is. Not the parsed value written anew: numbers and spacing stay as the model wrote them.
absl::string_view ObjectSpan(absl::string_view json, absl::string_view key) {
  int depth = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (c != '"') continue;
    const size_t begin = ++i;
    while (json[i] != '"') i += json[i] == '\\' ? 2 : 1;
    if (depth != 1 || json.substr(begin, i - begin) != key) continue;
    const size_t colon = json.find_first_not_of(kSpace, i + 1);
    if (json[colon] != ':') continue;  // a string value with the same text
    const size_t value = json.find_first_not_of(kSpace, colon + 1);
    return json.substr(value, ValueEnd(json, value) - value);
  }
  return "{}";
}

}  // namespace

std::optional<v1::ToolCallDelta> ParseToolCall(absl::string_view body) {
  const auto json = ParseJson(body, "tool call");
  if (!json.ok() || !json->is_object()) return std::nullopt;
  const auto name = json->find("name");
  if (name == json->end() || !name->is_string()) return std::nullopt;
  const auto arguments = json->find("arguments");
  if (arguments != json->end() && !arguments->is_object()) return std::nullopt;
  v1::ToolCallDelta call;
  call.set_name(name->get<std::string>());
  call.set_arguments_json(arguments == json->end() ? "{}"
                                                   : std::string(ObjectSpan(body, "arguments")));
  return call;
}

void ToolCallParser::Push(absl::string_view piece, std::string* text,
                          std::vector<v1::ToolCallDelta>* calls) {
  if (!enabled_) {
    text->append(piece.data(), piece.size());
    return;
  }
  held_.append(piece.data(), piece.size());
  do {
    if (!inside_) FindOpen(text);
  } while (inside_ && FindClose(text, calls));
}

void ToolCallParser::Finish(std::string* text, std::vector<v1::ToolCallDelta>* calls) {
  if (inside_) {
    if (auto call = ParseToolCall(held_); call.has_value()) {
      EmitCall(*std::move(call), calls);
    } else {
      text->append(before_).append(kOpen.data(), kOpen.size()).append(held_);
    }
  } else if (!after_call_ || held_.find_first_not_of(kSpace) != std::string::npos) {
    text->append(held_);
  }
  held_.clear();
}

void ToolCallParser::FindOpen(std::string* text) {
  const size_t open = held_.find(kOpen.data(), 0, kOpen.size());
  const size_t tag = open != std::string::npos ? open : held_.size() - PartialSuffix(held_, kOpen);
  const size_t end = absl::string_view(held_).substr(0, tag).find_last_not_of(kSpace) + 1;
  if (end > 0) {
    const size_t begin = after_call_ ? held_.find_first_not_of(kSpace) : 0;
    text->append(held_, begin, end - begin);
    after_call_ = false;
  }
  if (open == std::string::npos) {
    held_.erase(0, end);
    return;
  }
  before_ = after_call_ ? std::string() : held_.substr(end, open - end);
  held_.erase(0, open + kOpen.size());
  inside_ = true;
  searched_ = 0;
}

bool ToolCallParser::FindClose(std::string* text, std::vector<v1::ToolCallDelta>* calls) {
  const size_t close = held_.find(kClose.data(), searched_, kClose.size());
  if (close == std::string::npos) {
    searched_ = held_.size() - std::min(held_.size(), kClose.size() - 1);
    return false;
  }
  const std::string body = held_.substr(0, close);
  held_.erase(0, close + kClose.size());
  inside_ = false;
  if (auto call = ParseToolCall(body); call.has_value()) {
    EmitCall(*std::move(call), calls);
  } else {
    text->append(before_).append(kOpen.data(), kOpen.size());
    text->append(body).append(kClose.data(), kClose.size());
    after_call_ = false;
  }
  return true;
}

void ToolCallParser::EmitCall(v1::ToolCallDelta call, std::vector<v1::ToolCallDelta>* calls) {
  call.set_index(num_calls_++);
  call.set_id(RandomId("call_"));
  calls->push_back(std::move(call));
  after_call_ = true;
}

}  // namespace qwenserve
