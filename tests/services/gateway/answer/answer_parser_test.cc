#include "services/gateway/answer/answer_parser.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

struct Parsed {
  std::string reasoning;
  std::string text;
  std::vector<std::string> calls;  // name(arguments)
  friend bool operator==(const Parsed&, const Parsed&) = default;
};

v1::AnswerFormat Format(bool may_reason, bool starts_in_reasoning) {
  v1::AnswerFormat format;
  format.set_may_reason(may_reason);
  format.set_starts_in_reasoning(starts_in_reasoning);
  format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_JSON_TAGS);
  return format;
}

std::shared_ptr<ToolPolicy> Tools() {
  auto tools = std::make_shared<ToolPolicy>();
  tools->names = {"f", "g", "arguments"};
  tools->whole_calls = true;
  return tools;
}

Parsed Parse(const std::vector<std::string>& pieces, const v1::AnswerFormat& format) {
  AnswerParser parser(format, Tools(), 0);
  AnswerDelta delta;
  for (const std::string& piece : pieces) parser.Push(piece, &delta);
  parser.Finish(&delta);
  Parsed parsed = {delta.reasoning, delta.text, {}};
  uint32_t index = 0;
  for (const v1::ToolCallDelta& call : delta.tool_calls) {
    EXPECT_EQ(call.index(), index++);
    EXPECT_FALSE(call.id().empty());
    parsed.calls.push_back(call.name() + "(" + call.arguments_json() + ")");
  }
  return parsed;
}

// Whole, byte by byte, and at every pair of cuts.
void ExpectParsed(const std::string& text, const Parsed& expected,
                  const v1::AnswerFormat& format = Format(true, false)) {
  EXPECT_EQ(Parse({text}, format), expected) << text;
  std::vector<std::string> bytes;
  for (char c : text) bytes.push_back(std::string(1, c));
  EXPECT_EQ(Parse(bytes, format), expected) << text << " byte by byte";
  for (size_t a = 0; a <= text.size(); ++a) {
    for (size_t b = a; b <= text.size(); ++b) {
      ASSERT_EQ(Parse({text.substr(0, a), text.substr(a, b - a), text.substr(b)}, format), expected)
          << text << " cut at " << a << " and " << b;
    }
  }
}

TEST(AnswerParserTest, Reasoning) {
  ExpectParsed("<think>\nhm\n\nyes\n</think>\n\nIt is.", {"hm\n\nyes", "It is.", {}});
  ExpectParsed("\n<think>a</think>b", {"a", "b", {}});
  ExpectParsed("<think>\n\n</think>\n\nanswer\n", {"", "answer\n", {}});
  // Not at the beginning: text.
  ExpectParsed("a <think>b</think>", {"", "a <think>b</think>", {}});
  ExpectParsed("<thinking>", {"", "<thinking>", {}});
  ExpectParsed("<thi", {"", "<thi", {}});
  // Cut off by max_tokens.
  ExpectParsed("<think>endless </thi", {"endless </thi", "", {}});
  ExpectParsed("<think>a</think></think>", {"a", "</think>", {}});
}

TEST(AnswerParserTest, ReasoningOpenedByThePrompt) {
  ExpectParsed("hm\n</think>\n\nyes", {"hm", "yes", {}}, Format(true, true));
  ExpectParsed("\nhm", {"hm", "", {}}, Format(true, true));
}

TEST(AnswerParserTest, WithoutReasoningTagsAreText) {
  ExpectParsed("<think>a</think>b", {"", "<think>a</think>b", {}}, Format(false, false));
}

TEST(AnswerParserTest, ToolCalls) {
  const std::string call =
      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1.0}}\n</tool_call>";
  ExpectParsed(call, {"", "", {"f({\"x\": 1.0})"}});
  ExpectParsed("I look.\n" + call + "\n" + call + "\n",
               {"", "I look.", {"f({\"x\": 1.0})", "f({\"x\": 1.0})"}});
  ExpectParsed("a " + call + " b", {"", "ab", {"f({\"x\": 1.0})"}});
  // The closing tag is missing, the call is whole.
  ExpectParsed("<tool_call>{\"name\": \"f\"}", {"", "", {"f({})"}});
}

TEST(AnswerParserTest, ArgumentsStayAsWritten) {
  ExpectParsed(
      "<tool_call>{\"arguments\":{\"a\" : [1, {\"b\": \"}\\\"\"}], \"name\": 1e3 },"
      "\"name\":\"g\"}</tool_call>",
      {"", "", {"g({\"a\" : [1, {\"b\": \"}\\\"\"}], \"name\": 1e3 })"}});
  ExpectParsed("<tool_call>{\"name\": \"arguments\", \"arguments\": {}}</tool_call>",
               {"", "", {"arguments({})"}});
}

TEST(AnswerParserTest, MalformedCallsAreText) {
  for (const std::string body :
       {"", "{", "not json", "[]", "{\"name\": 1}", "{\"arguments\": {}}",
        "{\"name\": \"f\", \"arguments\": \"{}\"}", "{\"name\": \"f\", \"name\": \"g\"}"}) {
    const std::string text = "so\n<tool_call>" + body + "</tool_call> end";
    ExpectParsed(text, {"", text, {}});
  }
  ExpectParsed("a <tool_call>{\"name\": \"f\"", {"", "a <tool_call>{\"name\": \"f\"", {}});
  ExpectParsed("a <tool_c", {"", "a <tool_c", {}});
}

TEST(AnswerParserTest, WithoutToolsTheTagsAreText) {
  AnswerParser parser(Format(true, false), nullptr, 0);
  AnswerDelta delta;
  parser.Push("<tool_call>{\"name\": \"f\"}</tool_call>", &delta);
  parser.Finish(&delta);
  EXPECT_EQ(delta.text, "<tool_call>{\"name\": \"f\"}</tool_call>");
  EXPECT_FALSE(parser.has_tool_calls());
}

}  // namespace
}  // namespace qwenserve
