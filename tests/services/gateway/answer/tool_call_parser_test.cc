// The three formats of calls, streamed and whole, and cut in every way.
#include "services/gateway/answer/tool_call_parser.h"

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/base/json_reader.h"
#include "gtest/gtest.h"
#include "services/gateway/answer/answer_parser.h"

namespace qwenserve {
namespace {

using Format = v1::AnswerFormat;

constexpr Format::ToolCallFormat kHermes = Format::TOOL_CALL_FORMAT_JSON_TAGS;
constexpr Format::ToolCallFormat kReAct = Format::TOOL_CALL_FORMAT_REACT;
constexpr Format::ToolCallFormat kFlower = Format::TOOL_CALL_FORMAT_FLOWER;

struct Answer {
  std::string text;
  std::vector<std::string> calls;  // name(arguments)
  std::string reasoning = "";
  bool tool_calls = false;  // has_tool_calls()

  friend bool operator==(const Answer&, const Answer&) = default;
};

std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  out << "text: " << answer.text << "\nreasoning: " << answer.reasoning
      << "\ntool_calls: " << answer.tool_calls;
  for (const std::string& call : answer.calls) out << "\ncall: " << call;
  return out;
}

struct Reading {
  Format::ToolCallFormat format = kHermes;
  bool whole = false;
  bool single = false;
  bool may_reason = false;
  std::string opening = "";
};

std::unique_ptr<AnswerParser> MakeParser(const Reading& setup) {
  auto tools = std::make_shared<ToolPolicy>();
  tools->names = {"f", "g"};
  tools->whole_calls = setup.whole;
  tools->single_call = setup.single;
  v1::AnswerFormat format;
  format.set_tool_call_format(setup.format);
  format.set_may_reason(setup.may_reason);
  format.set_opening(setup.opening);
  return std::make_unique<AnswerParser>(format, tools, 0);
}

// As a client puts together what it gets piece by piece.
Answer Parse(const std::vector<std::string>& pieces, const Reading& setup) {
  const auto parser = MakeParser(setup);
  Answer answer;
  const auto take = [&](AnswerDelta delta) {
    answer.text += delta.text;
    answer.reasoning += delta.reasoning;
    for (const v1::ToolCallDelta& call : delta.tool_calls) {
      if (!call.name().empty()) {
        EXPECT_EQ(call.index(), answer.calls.size());
        EXPECT_EQ(call.id().size(), 29u);
        answer.calls.push_back(call.name() + "(");
      }
      ASSERT_EQ(call.index() + 1, answer.calls.size()) << "calls are not mixed";
      answer.calls.back() += call.arguments_json();
    }
  };
  for (const std::string& piece : pieces) {
    AnswerDelta delta;
    parser->Push(piece, &delta);
    take(std::move(delta));
  }
  AnswerDelta delta;
  parser->Finish(&delta);
  take(std::move(delta));
  for (std::string& call : answer.calls) call += ")";
  answer.tool_calls = parser->has_tool_calls();
  return answer;
}

std::vector<std::string> Bytes(const std::string& text) {
  std::vector<std::string> bytes;
  for (const char c : text) bytes.push_back(std::string(1, c));
  return bytes;
}

void ExpectAnswer(const std::string& text, const Answer& expected, const Reading& setup) {
  EXPECT_EQ(Parse({text}, setup), expected) << text;
  EXPECT_EQ(Parse(Bytes(text), setup), expected) << text;
}

// Both for streams and for answers as a whole.
void ExpectBoth(const std::string& text, const Answer& expected, Reading setup = {}) {
  setup.whole = false;
  ExpectAnswer(text, expected, setup);
  setup.whole = true;
  ExpectAnswer(text, expected, setup);
}

const char kCall[] =
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1.0, \"}\"]}}\n</tool_call>";
const char kParsed[] = "f({\"x\": [1.0, \"}\"]})";

TEST(ToolCallParserTest, TheNameComesFirstThenTheArgumentsAsTheyCome) {
  const auto parser = MakeParser({});
  const auto push = [&](const char* piece) {
    AnswerDelta delta;
    parser->Push(piece, &delta);
    EXPECT_LE(delta.tool_calls.size(), 1u);
    EXPECT_EQ(delta.text, "");
    return delta.tool_calls.empty() ? v1::ToolCallDelta() : delta.tool_calls[0];
  };
  EXPECT_EQ(push("<tool_call>\n{\"name\": \"f\", \"argu").name(), "");
  const v1::ToolCallDelta first = push("ments\": {\"x");
  EXPECT_EQ(first.name(), "f");
  EXPECT_NE(first.id(), "");
  EXPECT_EQ(first.arguments_json(), "{\"x");
  EXPECT_FALSE(parser->has_tool_calls());
  const v1::ToolCallDelta second = push("\": 1}");
  EXPECT_EQ(second.name(), "");
  EXPECT_EQ(second.id(), "");
  EXPECT_EQ(second.arguments_json(), "\": 1}");
  EXPECT_EQ(push("}\n</tool_call>").arguments_json(), "");
  EXPECT_TRUE(parser->has_tool_calls());
}

TEST(ToolCallParserTest, Hermes) {
  const std::string call = kCall;
  ExpectBoth(call, {"", {kParsed}, "", true});
  ExpectBoth("I look.\n" + call + "\n" + call + "\n", {"I look.", {kParsed, kParsed}, "", true});
  ExpectBoth("a " + call + " b " + call + " c", {"abc", {kParsed, kParsed}, "", true});
  // Without arguments, with the name behind them, with the tag inside a string, without spaces.
  ExpectBoth("<tool_call>{\"name\": \"f\"}</tool_call>", {"", {"f({})"}, "", true});
  ExpectBoth("<tool_call>{\"arguments\": {\"a\":1} , \"name\": \"g\"}</tool_call>",
             {"", {"g({\"a\":1})"}, "", true});
  ExpectBoth("<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"</tool_call>\"}}</tool_call>x",
             {"x", {"f({\"a\":\"</tool_call>\"})"}, "", true});
  ExpectBoth("<tool_call>{\"id\": [{\"name\": 1}], \"name\": \"\\u0066\"}</tool_call>",
             {"", {"f({})"}, "", true});
}

TEST(ToolCallParserTest, BracketsAndTagsMayBeMissingBehindTheArguments) {
  const std::string open = "<tool_call>{\"name\": \"f\", \"arguments\": {}";
  for (const char* end : {"", "}", "\n</tool_call>", "}}\n</tool_call>", "}</tool_c", "}\n"}) {
    ExpectBoth(open + end, {"", {"f({})"}, "", true});
  }
  ExpectBoth(open + "} done", {"done", {"f({})"}, "", true});
  ExpectBoth(open + " done</tool_call>", {"done</tool_call>", {"f({})"}, "", true});
  ExpectBoth(open + ", oops} <tool_call>{\"name\": \"g\"}</tool_call>",
             {", oops}", {"f({})", "g({})"}, "", true});
  ExpectBoth(open + "}<tool_call>{\"name\": \"g\"}", {"", {"f({})", "g({})"}, "", true});
}

TEST(ToolCallParserTest, WhatIsNoCallStaysTextAndHidesNoCallBehindIt) {
  for (const std::string body :
       {"", "{", "no json", "[]", "{\"name\": 1}", "{\"name\": \"unknown\"}", "{\"arguments\": {}}",
        "{\"name\": \"f\", \"arguments\": \"{}\"}", "{\"name\": \"f\", \"name\": \"g\"}",
        "{\"name\": \"f\n", "{\"arguments\": {}, \"arguments\": {}, \"name\": \"f\"}",
        "{\"name\": \"f\", \"arguments\": [1]}"}) {
    const std::string text = "so\n <tool_call>" + body + "</tool_call> end";
    ExpectBoth(text, {text, {}, "", false});
    ExpectBoth(text + "\n" + kCall, {text, {kParsed}, "", true});
  }
  ExpectBoth("<tool_call>\n<tool_call>\n{\"name\": \"f\"}", {"<tool_call>", {"f({})"}, "", true});
  ExpectBoth("<<tool_call>{\"name\": \"f\"}", {"<", {"f({})"}, "", true});
}

TEST(ToolCallParserTest, BrokenArgumentsAreToldAsTheyAreOrStayText) {
  const std::string broken =
      "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": oops} }\n</tool_call>";
  const std::string text = "x " + broken + " y " + kCall;
  ExpectAnswer(text,
               {"x"
                "y",
                {"f({\"a\": oops} }\n)", kParsed},
                "",
                false},
               {});
  ExpectAnswer(text, {"x " + broken + " y", {kParsed}, "", true}, {.whole = true});
  // Cut off by max_tokens.
  const std::string cut = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b";
  ExpectAnswer(cut, {"", {"f({\"a\": \"b)"}, "", false}, {});
  ExpectAnswer(cut, {cut, {}, "", false}, {.whole = true});
  ExpectAnswer(cut + "\n</tool_c", {"", {"f({\"a\": \"b\n</tool_c)"}, "", false}, {});
}

TEST(ToolCallParserTest, ReAct) {
  const Reading react = {.format = kReAct};
  ExpectBoth("Thought: I look.\nAction: f\nAction Input: {\"a\": 1}\n",
             {"I look.", {"f({\"a\": 1})"}, "", true}, react);
  ExpectBoth("Action:g\nAction Input:{}", {"", {"g({})"}, "", true}, react);
  ExpectBoth("Let me see.\nAction: f\nAction Input: {}", {"Let me see.", {"f({})"}, "", true},
             react);
  ExpectBoth("Thought: I now know the final answer.\nFinal Answer: It is 3.\n",
             {"It is 3.\n", {}, "I now know the final answer.", false}, react);
  ExpectBoth("Final Answer: 3", {"3", {}, "", false}, react);
  ExpectBoth("Thought: hm", {"Thought: hm", {}, "", false}, react);
  ExpectBoth("Though", {"Though", {}, "", false}, react);
  ExpectBoth("Hello, no tool.", {"Hello, no tool.", {}, "", false}, react);
}

TEST(ToolCallParserTest, ReActAfterAResult) {
  const Reading react = {.format = kReAct, .opening = "Thought:"};
  ExpectBoth(" I know.\nFinal Answer: 3", {"3", {}, "I know.", false}, react);
  ExpectBoth(" again\nAction: f\nAction Input: {}", {"again", {"f({})"}, "", true}, react);
  ExpectBoth(" it is 3", {"it is 3", {}, "", false}, react);
  ExpectBoth(" {\"a\": 2}", {"", {"f({\"a\": 2})"}, "", true},
             {.format = kReAct, .opening = "Thought: \nAction: f\nAction Input:"});
}

TEST(ToolCallParserTest, ReActThatIsNoCallStaysText) {
  const Reading react = {.format = kReAct};
  for (const std::string text :
       {"so\nAction: unknown\nAction Input: {}", "so\nAction: f\nAction Input: code",
        "so\nAction: f", "so\nAction: f\nAction Inp", "so. Action: f\nAction Input: {}",
        "so\nActions: f\nAction Input: {}"}) {
    ExpectBoth(text, {text, {}, "", false}, react);
  }
  const std::string longer = "so\nAction: " + std::string(300, 'x');
  ExpectBoth(longer + "\nAction: f\nAction Input: {}", {longer, {"f({})"}, "", true}, react);
  ExpectBoth("so\nAction: x\nAction: f\nAction Input: {}", {"so\nAction: x", {"f({})"}, "", true},
             react);
}

TEST(ToolCallParserTest, Flower) {
  const Reading flower = {.format = kFlower};
  ExpectBoth("I look.\n✿FUNCTION✿: f\n✿ARGS✿: {\"a\": \"✿\"}\n",
             {"I look.", {"f({\"a\": \"✿\"})"}, "", true}, flower);
  ExpectBoth("✿FUNCTION✿: f\n✿ARGS✿: {}\n✿FUNCTION✿:g\n✿ARGS✿:{\"b\": 2}",
             {"", {"f({})", "g({\"b\": 2})"}, "", true}, flower);
  ExpectBoth("✿FUNCTION✿FUNCTION✿: f\n✿ARGS✿: {}", {"✿FUNCTION", {"f({})"}, "", true}, flower);
  for (const std::string text : {"a ✿FUNCTION✿ b", "✿FUNC", "✂ ✿", "✿FUNCTION✿: h\n✿ARGS✿: {}",
                                 "✿FUNCTION✿: f", "✿FUNCTION✿: f\n✿ARGS✿: ```py"}) {
    ExpectBoth(text, {text, {}, "", false}, flower);
  }
  const Reading reply = {.format = kFlower, .opening = "✿RETURN✿"};
  ExpectBoth(": It is 3.", {"It is 3.", {}, "", false}, reply);
  ExpectBoth(":It is 3.", {"It is 3.", {}, "", false}, reply);
  ExpectBoth(": \n✿FUNCTION✿: f\n✿ARGS✿: {}", {"", {"f({})"}, "", true}, reply);
}

TEST(ToolCallParserTest, ACallThatThePromptBegan) {
  const Reading named = {.opening = "<tool_call>\n{\"name\": \"f\", \"arguments\":"};
  ExpectBoth(" {\"a\": 1}}\n</tool_call>", {"", {"f({\"a\": 1})"}, "", true}, named);
  ExpectBoth(" no", {named.opening + " no", {}, "", false}, named);
  const Reading any = {.opening = "<tool_call>\n{\"name\": \""};
  ExpectBoth("g\", \"arguments\": {}}", {"", {"g({})"}, "", true}, any);
  ExpectBoth("h\", \"arguments\": {}}", {any.opening + "h\", \"arguments\": {}}", {}, "", false},
             any);
}

TEST(ToolCallParserTest, TheOnlyCallEndsTheAnswer) {
  for (const bool whole : {false, true}) {
    const auto parser = MakeParser({.whole = whole, .single = true});
    AnswerDelta delta;
    parser->Push("a <tool_call>{\"name\": \"f\"", &delta);
    EXPECT_FALSE(parser->ended());
    parser->Push("} and more", &delta);
    EXPECT_TRUE(parser->ended());
    parser->Push(kCall, &delta);
    parser->Finish(&delta);
    EXPECT_EQ(delta.text, "a");
    EXPECT_EQ(delta.tool_calls.size(), 1u);
  }
}

TEST(ToolCallParserTest, InsideReasoningThereAreNoCalls) {
  ExpectBoth(std::string("<think>\n") + kCall + "\n</think>\n\n" + kCall,
             {"", {kParsed}, kCall, true}, {.may_reason = true});
}

TEST(ToolCallParserTest, IdsAreThoseOfTheRequest) {
  const uint32_t prompt[] = {1, 2, 3};
  const std::string seed = ToolCallIdSeed(7, prompt, 3);
  EXPECT_EQ(seed, ToolCallIdSeed(7, prompt, 3));
  EXPECT_NE(seed, ToolCallIdSeed(8, prompt, 3));
  EXPECT_NE(seed, ToolCallIdSeed(7, prompt, 2));
  // Also in another process, or with another build: clients match results by them.
  EXPECT_EQ(ToolCallId(seed, 0, 0), "call_494e600a95843d49536838d7");
  EXPECT_NE(ToolCallId(seed, 0, 0), ToolCallId(seed, 0, 1));
  EXPECT_NE(ToolCallId(seed, 0, 0), ToolCallId(seed, 1, 0));
}

// Texts of the formats' own words in any order, cut anywhere.
TEST(ToolCallParserTest, TheCutsDoNotMatter) {
  const std::vector<std::string> words = {"<tool_call>",
                                          "</tool_call>",
                                          "<tool_",
                                          "{\"name\": \"f\"",
                                          ", \"arguments\": ",
                                          "{",
                                          "}",
                                          "{\"a\": \"b\"}",
                                          "\"name\": \"g\"",
                                          "\n",
                                          " ",
                                          "\"",
                                          ",",
                                          "x",
                                          "é",
                                          "\nAction:",
                                          " f",
                                          "\nAction Input:",
                                          " {}",
                                          "Thought:",
                                          "\nFinal Answer:",
                                          "✿FUNCTION✿:",
                                          "✿ARGS✿:",
                                          "✿",
                                          "<think>",
                                          "</think>",
                                          "{\"name\": \"f\", \"arguments\": {}}",
                                          "\\"};
  std::mt19937 random(1);
  const auto draw = [&](size_t n) { return random() % n; };
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (size_t i = draw(14); i > 0; --i) text += words[draw(words.size())];
    Reading setup;
    setup.format = std::vector{kHermes, kReAct, kFlower}[draw(3)];
    setup.whole = draw(2) == 0;
    setup.may_reason = draw(2) == 0;
    const Answer whole = Parse({text}, setup);
    std::vector<std::string> pieces = {""};
    for (const char c : text) {
      if (draw(4) == 0) pieces.emplace_back();
      pieces.back().push_back(c);
    }
    ASSERT_EQ(Parse(pieces, setup), whole) << text;
    if (whole.tool_calls) {
      for (const std::string& call : whole.calls) {
        const auto arguments = ParseJson(call.substr(2, call.size() - 3), "arguments");
        ASSERT_TRUE(arguments.ok() && arguments->is_object()) << text << "\n" << call;
      }
    }
  }
}

// A megabyte, byte by byte, of what costs most to look at again: minutes where it is not linear.
TEST(ToolCallParserTest, HostileAnswersOfAMegabyte) {
  for (const std::string unit :
       {" ", "\n", "<", "<tool_call>", "<tool_call>{\"", "<tool_call>{\"name\": \"f\"", "}",
        "<tool_call>{\"name\": \"f\", \"arguments\": {", "{\"a\":", "\nAction: f",
        "✿FUNCTION✿:", "Thought:", "</think",
        "<tool_call>{\"name\":\"f\",\"arguments\":{}}, \"x\": \"", "\nAction: f\nAction Input: "}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    for (const auto format : {kHermes, kReAct, kFlower}) {
      const auto parser = MakeParser({.format = format, .may_reason = true});
      size_t bytes = 0;
      const auto count = [&](const AnswerDelta& delta) {
        bytes += delta.text.size() + delta.reasoning.size() + delta.tool_calls.size();
      };
      for (const char c : text) {
        AnswerDelta delta;
        parser->Push(absl::string_view(&c, 1), &delta);
        count(delta);
      }
      AnswerDelta delta;
      parser->Finish(&delta);
      count(delta);
      EXPECT_LE(bytes, 3 * text.size());
    }
  }
}

}  // namespace
}  // namespace qwenserve
