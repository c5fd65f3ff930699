// Any text as a model's answer, in pieces, written as OpenAI's server-sent events and as one JSON
// object: read again by the rules of both formats it is the same text.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/base/json_reader.h"
#include "services/gateway/http/json_text.h"
#include "services/gateway/http/openai_response.h"

namespace {

using qwenserve::AnswerDelta;
using qwenserve::Json;
namespace v1 = qwenserve::v1;

struct Text {
  std::string content;
  std::string reasoning;
  std::string arguments;
  std::vector<int> bytes;  // of the log-probabilities' tokens

  friend bool operator==(const Text&, const Text&) = default;
};

// Data of the events, as https://html.spec.whatwg.org/multipage/server-sent-events.html reads them:
// a line ends with CR, LF or both, an event with an empty one.
std::vector<std::string> ReadEvents(absl::string_view stream) {
  std::vector<std::string> events;
  std::string line, data;
  bool any = false;
  for (size_t i = 0; i < stream.size(); ++i) {
    const char c = stream[i];
    if (c != '\r' && c != '\n') {
      line.push_back(c);
      continue;
    }
    if (c == '\r' && i + 1 < stream.size() && stream[i + 1] == '\n') ++i;
    if (line.empty()) {
      if (any) events.push_back(data);
      data.clear();
      any = false;
    } else if (line.rfind("data: ", 0) == 0) {
      if (any) data += "\n";
      data += line.substr(6);
      any = true;
    } else if (line[0] != ':') {
      std::abort();  // nothing else is written
    }
    line.clear();
  }
  if (!line.empty() || any) std::abort();
  return events;
}

Json MustParse(const std::string& text) {
  auto json = qwenserve::ParseJson(text, "event");
  if (!json.ok()) std::abort();
  return *std::move(json);
}

void TakeString(const Json& object, const char* key, std::string* out) {
  const auto found = object.find(key);
  if (found != object.end() && found->is_string()) *out += found->get<std::string>();
}

// One choice, whole or a chunk.
void TakeChoice(const Json& choice, bool chat, Text* text) {
  if (chat) {
    const Json& message = choice.contains("delta") ? choice["delta"] : choice["message"];
    TakeString(message, "content", &text->content);
    TakeString(message, "reasoning_content", &text->reasoning);
    if (message.contains("tool_calls")) {
      for (const Json& call : message["tool_calls"]) {
        TakeString(call["function"], "arguments", &text->arguments);
      }
    }
    if (choice.contains("logprobs") && choice["logprobs"].is_object()) {
      for (const Json& token : choice["logprobs"]["content"]) {
        for (const Json& byte : token["bytes"]) text->bytes.push_back(byte.get<int>());
      }
    }
  } else {
    TakeString(choice, "text", &text->content);
  }
}

AnswerDelta MakeDelta(const std::string& raw, uint8_t kind, Text* text) {
  const std::string valid = qwenserve::ReplaceInvalidUtf8(raw);
  if (!qwenserve::IsValidUtf8(valid)) std::abort();
  if (qwenserve::IsValidUtf8(raw) != (raw == valid)) std::abort();
  AnswerDelta delta;
  const bool chat = (kind & 1) != 0;
  if (chat && (kind & 2) != 0) {
    delta.reasoning = valid;
    text->reasoning += valid;
  } else if (chat && (kind & 4) != 0) {
    v1::ToolCallDelta call;
    call.set_arguments_json(valid);
    if (text->arguments.empty()) {
      call.set_id("id");
      call.set_name(valid + "f");
    }
    delta.tool_calls.push_back(call);
    text->arguments += valid;
  } else {
    delta.text = valid;
    text->content += valid;
  }
  delta.token_ids.push_back(1);
  if ((kind & 8) != 0) {
    v1::TokenLogprob token;
    token.set_token(raw);
    token.set_logprob(-1);
    delta.logprobs.push_back(token);
    if (chat) {
      for (const char c : raw) text->bytes.push_back(static_cast<uint8_t>(c));
    }
  }
  return delta;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint8_t kind = data[0];
  const size_t piece = 1 + data[1] % 32;
  const std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const bool chat = (kind & 1) != 0;
  qwenserve::OpenAiStyle style;
  style.logprobs = (kind & 8) != 0;
  style.include_usage = (kind & 16) != 0;
  v1::Started started;
  started.set_request_id("id");
  started.set_model(qwenserve::ReplaceInvalidUtf8(bytes.substr(0, 8)));
  v1::Finished finished;
  finished.add_choices()->set_finish_reason(v1::FINISH_REASON_STOP);
  if ((kind & 32) != 0) {
    finished.mutable_choices(0)->set_stop_string(qwenserve::ReplaceInvalidUtf8(bytes));
  }
  for (const bool stream : {true, false}) {
    style.stream = stream;
    const auto answer = chat ? qwenserve::MakeChatAnswer(style, 1, 1)
                             : qwenserve::MakeCompletionAnswer(style, 1, 1, {""});
    qwenserve::SseWriter writer;
    Text wanted, read;
    answer->Begin(started);
    if (stream) answer->WriteStart(&writer);
    for (size_t begin = 0; begin < bytes.size(); begin += piece) {
      AnswerDelta delta = MakeDelta(bytes.substr(begin, piece), kind, &wanted);
      if ((kind & 64) != 0) writer.Comment();
      stream ? answer->WriteDelta(std::move(delta), &writer) : answer->Add(std::move(delta));
    }
    if (stream) {
      answer->WriteFinish(finished, &writer);
      std::vector<std::string> events = ReadEvents(writer.bytes());
      if (events.empty() || events.back() != "[DONE]") std::abort();
      events.pop_back();
      for (const std::string& event : events) {
        const Json json = MustParse(event);
        for (const Json& choice : json["choices"]) TakeChoice(choice, chat, &read);
      }
    } else {
      const Json json = MustParse(answer->Finish(finished));
      TakeChoice(json["choices"][0], chat, &read);
    }
    if (!(read == wanted)) std::abort();
  }
  return 0;
}
