#include <utility>
#include <vector>

#include "services/gateway/answer/response_builder.h"
#include "services/gateway/http/answer_frame.h"
#include "services/gateway/http/openai_response.h"

namespace qwenserve {
namespace {

void AppendBytes(absl::string_view bytes, std::string* out) {
  *out += "[";
  for (size_t i = 0; i < bytes.size(); ++i) {
    absl::StrAppend(out, i > 0 ? "," : "", static_cast<int>(static_cast<uint8_t>(bytes[i])));
  }
  *out += "]";
}

template <typename Token>
void AppendToken(const Token& token, std::string* out) {
  *out += "{\"token\":";
  AppendJsonString(ReplaceInvalidUtf8(token.token()), out);
  *out += ",\"logprob\":";
  AppendLogprob(token.logprob(), out);
  *out += ",\"bytes\":";
  AppendBytes(token.token(), out);
}

// `"logprobs":` and its value.
template <typename List>
void AppendLogprobs(const OpenAiStyle& style, const List& tokens, std::string* out) {
  *out += "\"logprobs\":";
  if (!style.logprobs) {
    *out += "null";
    return;
  }
  *out += "{\"content\":[";
  bool first = true;
  for (const v1::TokenLogprob& token : tokens) {
    if (!std::exchange(first, false)) *out += ",";
    AppendToken(token, out);
    *out += ",\"top_logprobs\":[";
    for (int i = 0; i < token.top_size(); ++i) {
      if (i > 0) *out += ",";
      AppendToken(token.top(i), out);
      *out += "}";
    }
    *out += "]}";
  }
  *out += "],\"refusal\":null}";
}

void AppendFunction(const std::string& name, const std::string& arguments, std::string* out) {
  *out += "{";
  if (!name.empty()) {
    *out += "\"name\":";
    AppendJsonString(name, out);
    *out += ",";
  }
  *out += "\"arguments\":";
  AppendJsonString(arguments, out);
  *out += "}";
}

class ChatAnswer final : public OpenAiAnswer {
 public:
  ChatAnswer(const OpenAiStyle& style, int64_t created, uint32_t choices)
      : style_(style), created_(created), choices_(choices) {}

  void Begin(v1::Started started) override {
    prefix_ = AnswerPrefix(started, style_.stream ? "chat.completion.chunk" : "chat.completion",
                           created_);
    suffix_ = style_.include_usage ? "],\"usage\":null}" : "]}";
  }

  void WriteStart(SseWriter* out) override {
    for (uint32_t i = 0; i < choices_; ++i) {
      std::string* json = BeginChunk(i, out);
      *json += "{\"role\":\"assistant\",\"content\":\"\"}";
      EndChunk(json, out);
    }
  }

  void WriteDelta(AnswerDelta delta, SseWriter* out) override;
  void WriteFinish(const v1::Finished& finished, SseWriter* out) override;

  void Add(AnswerDelta delta) override { AppendDelta(std::move(delta), &whole_); }
  std::string Finish(const v1::Finished& finished) override;

 private:
  // Up to the value of `delta`.
  std::string* BeginChunk(uint32_t choice, SseWriter* out) {
    std::string* json = out->Begin();
    absl::StrAppend(json, prefix_, "{\"index\":", choice, ",\"delta\":");
    return json;
  }
  void EndChunk(std::string* json, SseWriter* out) {
    *json += ",\"logprobs\":null,\"finish_reason\":null}";
    *json += suffix_;
    out->End();
  }
  absl::string_view tool_reason() const {
    return style_.functions ? "function_call" : "tool_calls";
  }
  void WriteToolCall(uint32_t choice, const v1::ToolCallDelta& call, SseWriter* out);
  void AppendMessage(const v1::ChatMessage& message, std::string* json) const;

  const OpenAiStyle style_;
  const int64_t created_;
  const uint32_t choices_;
  std::string prefix_;
  std::string suffix_;
  v1::ChatResponse whole_;
};

void ChatAnswer::WriteDelta(AnswerDelta delta, SseWriter* out) {
  if (!delta.reasoning.empty()) {
    std::string* json = BeginChunk(delta.choice, out);
    *json += "{\"reasoning_content\":";
    AppendJsonString(delta.reasoning, json);
    *json += "}";
    EndChunk(json, out);
  }
  // Log-probabilities come with the text, or alone when a character is not complete.
  if (!delta.text.empty() || (style_.logprobs && !delta.logprobs.empty())) {
    std::string* json = BeginChunk(delta.choice, out);
    *json += "{\"content\":";
    AppendJsonString(delta.text, json);
    *json += "},";
    AppendLogprobs(style_, delta.logprobs, json);
    *json += ",\"finish_reason\":null}";
    *json += suffix_;
    out->End();
  }
  for (const v1::ToolCallDelta& call : delta.tool_calls) WriteToolCall(delta.choice, call, out);
}

void ChatAnswer::WriteToolCall(uint32_t choice, const v1::ToolCallDelta& call, SseWriter* out) {
  // The old API knows one call for each answer.
  if (style_.functions && call.index() > 0) return;
  std::string* json = BeginChunk(choice, out);
  if (style_.functions) {
    *json += "{\"function_call\":";
    AppendFunction(call.name(), call.arguments_json(), json);
    *json += "}";
  } else {
    absl::StrAppend(json, "{\"tool_calls\":[{\"index\":", call.index());
    if (!call.id().empty()) {
      *json += ",\"id\":";
      AppendJsonString(call.id(), json);
      *json += ",\"type\":\"function\"";
    }
    *json += ",\"function\":";
    AppendFunction(call.name(), call.arguments_json(), json);
    *json += "}]}";
  }
  EndChunk(json, out);
}

void ChatAnswer::WriteFinish(const v1::Finished& finished, SseWriter* out) {
  for (const v1::ChoiceFinish& finish : finished.choices()) {
    std::string* json = BeginChunk(finish.index(), out);
    *json += "{},\"logprobs\":null,";
    AppendFinishReason(finish, tool_reason(), json);
    *json += "}";
    *json += suffix_;
    out->End();
  }
  if (style_.include_usage) {
    std::string* json = out->Begin();
    absl::StrAppend(json, prefix_, "],\"usage\":");
    AppendUsage(finished.usage(), json);
    *json += "}";
    out->End();
  }
  out->Done();
}

void ChatAnswer::AppendMessage(const v1::ChatMessage& message, std::string* json) const {
  *json += "{\"role\":\"assistant\",\"content\":";
  if (message.content().empty() && message.tool_calls_size() > 0) {
    *json += "null";
  } else {
    AppendJsonString(message.content(), json);
  }
  *json += ",\"refusal\":null";
  if (!message.reasoning().empty()) {
    *json += ",\"reasoning_content\":";
    AppendJsonString(message.reasoning(), json);
  }
  if (style_.functions && message.tool_calls_size() > 0) {
    *json += ",\"function_call\":";
    AppendFunction(message.tool_calls(0).name(), message.tool_calls(0).arguments_json(), json);
  } else if (message.tool_calls_size() > 0) {
    *json += ",\"tool_calls\":[";
    for (int i = 0; i < message.tool_calls_size(); ++i) {
      const v1::ToolCall& call = message.tool_calls(i);
      absl::StrAppend(json, i > 0 ? "," : "", "{\"id\":");
      AppendJsonString(call.id(), json);
      *json += ",\"type\":\"function\",\"function\":";
      AppendFunction(call.name(), call.arguments_json(), json);
      *json += "}";
    }
    *json += "]";
  }
  *json += "}";
}

std::string ChatAnswer::Finish(const v1::Finished& finished) {
  SetFinished(finished, &whole_);
  std::string json = prefix_;
  for (int i = 0; i < whole_.choices_size(); ++i) {
    const v1::ChatChoice& choice = whole_.choices(i);
    absl::StrAppend(&json, i > 0 ? "," : "", "{\"index\":", choice.index(), ",\"message\":");
    AppendMessage(choice.message(), &json);
    json += ",";
    AppendLogprobs(style_, choice.logprobs(), &json);
    json += ",";
    AppendFinishReason(finished.choices(i), tool_reason(), &json);
    json += "}";
  }
  AppendAnswerEnd(finished.usage(), &json);
  return json;
}

}  // namespace

std::unique_ptr<OpenAiAnswer> MakeChatAnswer(const OpenAiStyle& style, int64_t created,
                                             uint32_t choices) {
  return std::make_unique<ChatAnswer>(style, created, choices);
}

}  // namespace qwenserve
