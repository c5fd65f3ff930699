#include "services/gateway/http/openai_response.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/json_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/gateway/http/json_text.h"

namespace qwenserve {
namespace {

v1::Started MakeStarted() {
  v1::Started started;
  started.set_request_id("req-1");
  started.set_model("m \"quoted\"");
  started.set_fingerprint("fp");
  started.set_seed(7);
  return started;
}

v1::Finished MakeFinished(v1::FinishReason reason) {
  v1::Finished finished;
  finished.add_choices()->set_finish_reason(reason);
  finished.mutable_usage()->set_prompt_tokens(3);
  finished.mutable_usage()->set_completion_tokens(4);
  finished.mutable_usage()->set_cached_prompt_tokens(2);
  finished.mutable_usage()->set_reasoning_tokens(1);
  return finished;
}

v1::TokenLogprob Logprob(const std::string& bytes, float value) {
  v1::TokenLogprob token;
  token.set_token(bytes);
  token.set_logprob(value);
  auto* top = token.add_top();
  top->set_token("other");
  top->set_logprob(-std::numeric_limits<float>::infinity());
  return token;
}

// The events of a stream, each parsed; the last must be [DONE].
std::vector<Json> Events(absl::string_view bytes) {
  std::vector<Json> events;
  std::vector<absl::string_view> texts = absl::StrSplit(bytes, "\n\n", absl::SkipEmpty());
  EXPECT_FALSE(texts.empty());
  EXPECT_EQ(texts.back(), "data: [DONE]");
  texts.pop_back();
  for (absl::string_view text : texts) {
    EXPECT_TRUE(absl::ConsumePrefix(&text, "data: "));
    auto json = ParseJson(text, "event");
    EXPECT_TRUE(json.ok()) << json.status() << text;
    if (json.ok()) events.push_back(*std::move(json));
  }
  return events;
}

TEST(JsonText, EscapesWhatItMust) {
  std::string all;
  for (int c = 0; c < 128; ++c) all.push_back(static_cast<char>(c));
  all += "\u00e9\U0001f600";
  std::string json;
  AppendJsonString(all, &json);
  const auto parsed = ParseJson(json, "text");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->get<std::string>(), all);
  EXPECT_EQ(json.find('\n'), std::string::npos) << "an event's data is one line";
}

TEST(JsonText, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(ReplaceInvalidUtf8("a\xff\xc3\xa9\xe4\xbd"), "a\uFFFD\u00e9\uFFFD\uFFFD");
  EXPECT_EQ(ReplaceInvalidUtf8("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_FALSE(IsValidUtf8("\xc0\x80"));
  EXPECT_FALSE(IsValidUtf8("\xf4\x90\x80\x80"));
  EXPECT_TRUE(IsValidUtf8("\xf4\x8f\xbf\xbf"));
}

TEST(JsonText, WritesLogprobsThatJsonKnows) {
  std::string out;
  AppendLogprob(-std::numeric_limits<float>::infinity(), &out);
  EXPECT_EQ(out, "-9999");
  out.clear();
  AppendLogprob(-0.1f, &out);
  EXPECT_EQ(std::stof(out), -0.1f);
}

TEST(ChatAnswer, StreamsAnAnswer) {
  OpenAiStyle style;
  style.stream = style.include_usage = true;
  auto answer = MakeChatAnswer(style, 1234, 1);
  SseWriter out;
  answer->Begin(MakeStarted());
  answer->WriteStart(&out);
  AnswerDelta delta;
  delta.reasoning = "hm";
  delta.text = "line\n\"two\"";
  answer->WriteDelta(delta, &out);
  answer->WriteFinish(MakeFinished(v1::FINISH_REASON_LENGTH), &out);
  const std::vector<Json> events = Events(out.bytes());
  ASSERT_EQ(events.size(), 5u);
  for (const Json& event : events) {
    EXPECT_EQ(event["id"], "req-1");
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    EXPECT_EQ(event["model"], "m \"quoted\"");
    EXPECT_EQ(event["system_fingerprint"], "fp");
    EXPECT_EQ(event["created"], 1234);
  }
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_TRUE(events[0]["usage"].is_null());
  EXPECT_EQ(events[1]["choices"][0]["delta"]["reasoning_content"], "hm");
  EXPECT_EQ(events[2]["choices"][0]["delta"]["content"], "line\n\"two\"");
  EXPECT_EQ(events[3]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(events[4]["choices"].empty());
  EXPECT_EQ(events[4]["usage"]["total_tokens"], 7);
  EXPECT_EQ(events[4]["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_EQ(events[4]["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
}

TEST(ChatAnswer, StreamsNoUsageThatWasNotAskedFor) {
  OpenAiStyle style;
  style.stream = true;
  auto answer = MakeChatAnswer(style, 1, 2);
  SseWriter out;
  answer->Begin(MakeStarted());
  answer->WriteStart(&out);
  answer->WriteFinish(MakeFinished(v1::FINISH_REASON_STOP), &out);
  const std::vector<Json> events = Events(out.bytes());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1]["choices"][0]["index"], 1);
  for (const Json& event : events) EXPECT_FALSE(event.contains("usage"));
}

TEST(ChatAnswer, LogprobsOfAnUnfinishedCharacterComeAlone) {
  OpenAiStyle style;
  style.stream = style.logprobs = true;
  auto answer = MakeChatAnswer(style, 1, 1);
  SseWriter out;
  answer->Begin(MakeStarted());
  AnswerDelta delta;
  delta.token_ids = {1};
  delta.logprobs = {Logprob("\xf0\x9f", -1)};
  answer->WriteDelta(delta, &out);
  out.Done();
  const std::vector<Json> events = Events(out.bytes());
  ASSERT_EQ(events.size(), 1u);
  const Json& token = events[0]["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["bytes"], Json::array({0xf0, 0x9f}));
  EXPECT_EQ(token["token"], "\uFFFD\uFFFD");
  EXPECT_EQ(token["top_logprobs"][0]["logprob"], -9999);
}

TEST(ChatAnswer, StreamsCallsUnderBothNames) {
  for (const bool functions : {false, true}) {
    OpenAiStyle style;
    style.stream = true;
    style.functions = functions;
    auto answer = MakeChatAnswer(style, 1, 1);
    SseWriter out;
    answer->Begin(MakeStarted());
    AnswerDelta delta;
    delta.tool_calls.resize(2);
    delta.tool_calls[0].set_id("c");
    delta.tool_calls[0].set_name("f");
    delta.tool_calls[1].set_arguments_json("{\"a\":");
    answer->WriteDelta(delta, &out);
    answer->WriteFinish(MakeFinished(v1::FINISH_REASON_TOOL_CALLS), &out);
    const std::vector<Json> events = Events(out.bytes());
    ASSERT_EQ(events.size(), 3u);
    const Json& first = events[0]["choices"][0]["delta"];
    const Json& second = events[1]["choices"][0]["delta"];
    if (functions) {
      EXPECT_EQ(first["function_call"]["name"], "f");
      EXPECT_EQ(second["function_call"]["arguments"], "{\"a\":");
    } else {
      EXPECT_EQ(first["tool_calls"][0]["id"], "c");
      EXPECT_EQ(first["tool_calls"][0]["type"], "function");
      EXPECT_FALSE(second["tool_calls"][0].contains("id"));
      EXPECT_EQ(second["tool_calls"][0]["function"]["arguments"], "{\"a\":");
    }
    EXPECT_EQ(events[2]["choices"][0]["finish_reason"], functions ? "function_call" : "tool_calls");
  }
}

TEST(CompletionAnswer, TokensWithoutANameOfTheirOwnDiffer) {
  OpenAiStyle style;
  style.logprobs = true;
  auto answer = MakeCompletionAnswer(style, 1, 1, {""});
  answer->Begin(MakeStarted());
  AnswerDelta delta;
  delta.text = "\U0001f600a";
  delta.token_ids = {1, 2, 3};
  delta.logprobs = {Logprob("\xf0\x9f", -1), Logprob("\x98\x80", -2), Logprob("a", -3)};
  answer->Add(delta);
  const auto json = ParseJson(answer->Finish(MakeFinished(v1::FINISH_REASON_STOP)), "answer");
  ASSERT_TRUE(json.ok()) << json.status();
  const Json& lists = (*json)["choices"][0]["logprobs"];
  EXPECT_EQ(lists["tokens"], Json::array({"bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "a"}));
  EXPECT_EQ(lists["text_offset"], Json::array({0, 1, 1}));
  EXPECT_EQ(lists["top_logprobs"][2].size(), 2u);
}

TEST(CompletionAnswer, SeveralPromptsFollowEachOther) {
  OpenAiStyle style;
  auto answer = MakeCompletionAnswer(style, 1, 2, {"a", "b", "c"});
  answer->Begin(MakeStarted());
  v1::Finished finished;
  for (uint32_t i = 0; i < 6; ++i) {
    auto* choice = finished.add_choices();
    choice->set_index(i);
    choice->set_finish_reason(i == 4 ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_STOP);
  }
  // The last one has no text at all.
  for (const uint32_t i : {4u, 0u, 3u, 1u, 2u}) {
    AnswerDelta delta;
    delta.choice = i;
    delta.text = absl::StrCat("text ", i);
    answer->Add(delta);
  }
  const auto json = ParseJson(answer->Finish(finished), "answer");
  ASSERT_TRUE(json.ok()) << json.status();
  ASSERT_EQ((*json)["choices"].size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const Json& choice = (*json)["choices"][i];
    EXPECT_EQ(choice["index"], i);
    EXPECT_EQ(choice["text"], i == 5 ? "" : absl::StrCat("text ", i));
    EXPECT_EQ(choice["finish_reason"], i == 4 ? "length" : "stop");
  }
}

}  // namespace
}  // namespace qwenserve
