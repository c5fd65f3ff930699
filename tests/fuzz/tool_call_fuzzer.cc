// Any text as a model's answer: the first byte chooses the format and what the request wants, the
// second how the answer is cut. Whatever it is, cutting changes nothing, no text appears that the
// model did not write, and calls that are told to be complete have JSON objects for arguments.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include "engine/base/json_reader.h"
#include "services/gateway/answer/answer_parser.h"
#include "services/gateway/answer/json_scanner.h"

namespace {

using qwenserve::AnswerDelta;
using qwenserve::AnswerParser;
using qwenserve::JsonScanner;
using qwenserve::ToolPolicy;
namespace v1 = qwenserve::v1;

struct Result {
  std::string text;
  std::string reasoning;
  std::map<uint32_t, std::string> names;
  std::map<uint32_t, std::string> arguments;
  bool tool_calls = false;
  bool ended = false;

  friend bool operator==(const Result&, const Result&) = default;
};

void Take(AnswerDelta delta, Result* result) {
  result->text += delta.text;
  result->reasoning += delta.reasoning;
  for (const v1::ToolCallDelta& call : delta.tool_calls) {
    const bool first = result->names.count(call.index()) == 0;
    if (first != !call.name().empty() || first == call.id().empty()) std::abort();
    if (first && call.index() != result->names.size()) std::abort();
    if (first) result->names[call.index()] = call.name();
    result->arguments[call.index()] += call.arguments_json();
  }
}

Result Parse(const std::string& answer, uint8_t kind, uint8_t cut) {
  v1::AnswerFormat format;
  format.set_tool_call_format(static_cast<v1::AnswerFormat::ToolCallFormat>(1 + kind % 3));
  format.set_may_reason((kind & 4) != 0);
  format.set_starts_in_reasoning((kind & 4) != 0 && (kind & 8) != 0);
  auto policy = std::make_shared<ToolPolicy>();
  policy->names = {"f", "g"};
  policy->whole_calls = (kind & 16) != 0;
  policy->single_call = (kind & 32) != 0;
  if ((kind & 64) != 0) {
    const char* const openings[] = {"<tool_call>\n{\"name\": \"", "Thought:", "✿RETURN✿"};
    format.set_opening(openings[kind % 3]);
  }
  AnswerParser parser(format, policy, 1);
  Result result;
  for (size_t begin = 0; begin < answer.size();) {
    const size_t size = cut == 0 ? answer.size() : 1 + (begin * 7 + cut) % cut;
    AnswerDelta delta;
    parser.Push(absl::string_view(answer).substr(begin, size), &delta);
    Take(std::move(delta), &result);
    begin += size;
  }
  AnswerDelta delta;
  parser.Finish(&delta);
  Take(std::move(delta), &result);
  result.tool_calls = parser.has_tool_calls();
  result.ended = parser.ended();
  return result;
}

bool IsObject(const std::string& text) {
  JsonScanner scanner;
  for (size_t i = 0; i < text.size(); ++i) {
    const JsonScanner::Event event = scanner.Feed(text[i]);
    if (event == JsonScanner::Event::kError) return false;
    if (event == JsonScanner::Event::kEnd) return i + 1 == text.size();
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string answer(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto parsed = qwenserve::ParseJson(answer, "answer");
  if (parsed.ok() && parsed->is_object()) {
    // White space may follow; the scanner ends with the object.
    const std::string object = answer.substr(0, answer.find_last_of('}') + 1);
    if (!IsObject(object)) std::abort();
  }
  const Result result = Parse(answer, data[0], 0);
  if (Parse(answer, data[0], 1) != result || Parse(answer, data[0], data[1]) != result) {
    std::abort();
  }
  // Without a call nothing is lost; ReAct has labels, reasoning tags, and both white space next to
  // them, and a reply's label loses its colon.
  const bool verbatim = (data[0] & (4 | 64)) == 0 && data[0] % 3 != 1;
  if (verbatim && result.names.empty() && result.text != answer) std::abort();
  size_t bytes = result.text.size() + result.reasoning.size();
  for (const auto& [index, arguments] : result.arguments) {
    bytes += arguments.size();
    if (result.tool_calls && !IsObject(arguments)) std::abort();
    // Arguments that are not there are told as {}.
    if (arguments == "{}") bytes -= 2;
  }
  // The openings of Parse above are shorter than this.
  if (bytes > answer.size() + 32) std::abort();
  return 0;
}
