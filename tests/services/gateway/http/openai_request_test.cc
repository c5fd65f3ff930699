#include "services/gateway/http/openai_request.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/http/openai_error.h"

namespace qwenserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kMessages[] = R"("messages": [{"role": "user", "content": "hi"}])";

OpenAiChat Chat(const std::string& more) {
  auto chat = ParseChatRequest(absl::StrCat("{", kMessages, more.empty() ? "" : ", ", more, "}"));
  EXPECT_TRUE(chat.ok()) << chat.status();
  return chat.ok() ? *std::move(chat) : OpenAiChat();
}

std::string RefusedField(const std::string& more) {
  const auto chat = ParseChatRequest(absl::StrCat("{", kMessages, ", ", more, "}"));
  EXPECT_EQ(chat.status().code(), absl::StatusCode::kInvalidArgument) << more;
  return ErrorField(chat.status());
}

TEST(OpenAiRequest, LeavesUnsetWhatIsNotThere) {
  const OpenAiChat chat = Chat(R"("temperature": null, "max_tokens": null, "tools": null)");
  EXPECT_FALSE(chat.request.options().sampling().has_temperature());
  EXPECT_FALSE(chat.request.options().has_max_tokens());
  EXPECT_FALSE(chat.request.options().has_top_logprobs());
  EXPECT_FALSE(chat.request.input().has_enable_thinking());
  EXPECT_FALSE(chat.style.stream);
}

TEST(OpenAiRequest, ReadsOptions) {
  const OpenAiChat chat = Chat(
      R"("temperature": 0, "top_k": -1, "min_p": 0.5, "seed": 9007199254740991, "n": 2,
         "stop": ["a", "b"], "logit_bias": {"7": -100, "8": 1.5}, "max_completion_tokens": 4,
         "stream": true, "stream_options": {"include_usage": true}, "logprobs": true,
         "top_logprobs": 3, "priority": -5, "cache_salt": "s", "stop_token_ids": [1, 2],
         "ignore_eos": true, "min_tokens": 1, "repetition_penalty": 1.1)");
  const v1::GenerationOptions& options = chat.request.options();
  EXPECT_TRUE(options.sampling().has_temperature());
  EXPECT_EQ(options.sampling().top_k(), 0u);
  EXPECT_EQ(options.sampling().seed(), 9007199254740991u);
  EXPECT_FLOAT_EQ(options.sampling().logit_bias().at(8), 1.5f);
  EXPECT_FLOAT_EQ(options.sampling().repetition_penalty(), 1.1f);
  EXPECT_THAT(options.stop(), ElementsAre("a", "b"));
  EXPECT_THAT(options.stop_token_ids(), ElementsAre(1, 2));
  EXPECT_EQ(options.max_tokens(), 4u);
  EXPECT_EQ(options.min_tokens(), 1u);
  EXPECT_EQ(options.n(), 2u);
  EXPECT_EQ(options.top_logprobs(), 3u);
  EXPECT_EQ(options.priority(), -5);
  EXPECT_EQ(options.cache_salt(), "s");
  EXPECT_TRUE(options.ignore_eos());
  EXPECT_TRUE(chat.style.stream && chat.style.include_usage && chat.style.logprobs);
}

TEST(OpenAiRequest, TakesIntegersAsLanguagesWriteThemThatKnowOnlyDoubles) {
  const OpenAiChat chat = Chat(R"("n": 2.0, "max_tokens": 1e2, "seed": 9007199254740992.0)");
  EXPECT_EQ(chat.request.options().n(), 2u);
  EXPECT_EQ(chat.request.options().max_tokens(), 100u);
  EXPECT_EQ(chat.request.options().sampling().seed(), 9007199254740992u);
  EXPECT_EQ(RefusedField(R"("n": 1.5)"), "n");
  EXPECT_EQ(RefusedField(R"("n": -1.0)"), "n");
  EXPECT_EQ(RefusedField(R"("seed": 9007199254740994.0)"), "seed");
  EXPECT_EQ(RefusedField(R"("seed": 1e300)"), "seed");
}

TEST(OpenAiRequest, KeepsTheOrderOfASchema) {
  const OpenAiChat chat = Chat(
      R"("tools": [{"type": "function", "function": {"name": "f", "parameters":
         {"type": "object", "properties": {"z": {}, "a": {}}, "required": ["z"]}}}])");
  EXPECT_EQ(chat.request.input().tools(0).parameters_json(),
            R"({"type":"object","properties":{"z":{},"a":{}},"required":["z"]})");
}

TEST(OpenAiRequest, ReadsMessages) {
  const auto chat = ParseChatRequest(R"({"messages": [
      {"role": "developer", "content": "be brief"},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
          {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"z\": 1}"}}]},
      {"role": "tool", "tool_call_id": "1", "content": "done"},
      {"role": "assistant", "content": null, "function_call": {"name": "g", "arguments": "{}"}},
      {"role": "function", "name": "g", "content": "done too"}]})");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto& messages = chat->request.input().messages();
  ASSERT_EQ(messages.size(), 6);
  EXPECT_EQ(messages[0].role(), v1::ROLE_SYSTEM);
  EXPECT_EQ(messages[1].content(), "a\nb");
  EXPECT_EQ(messages[2].reasoning(), "hm");
  EXPECT_EQ(messages[2].tool_calls(0).arguments_json(), "{\"z\": 1}");
  EXPECT_EQ(messages[3].tool_call_id(), "1");
  EXPECT_EQ(messages[4].tool_calls(0).name(), "g");
  EXPECT_EQ(messages[5].role(), v1::ROLE_TOOL);
  EXPECT_EQ(messages[5].name(), "g");
}

TEST(OpenAiRequest, ReadsTheChoiceOfTools) {
  EXPECT_EQ(Chat(R"("tool_choice": "required")").request.input().tool_choice().mode(),
            v1::ToolChoice::MODE_REQUIRED);
  const OpenAiChat named =
      Chat(R"("tool_choice": {"type": "function", "function": {"name": "f"}})");
  EXPECT_EQ(named.request.input().tool_choice().mode(), v1::ToolChoice::MODE_FUNCTION);
  EXPECT_EQ(named.request.input().tool_choice().function_name(), "f");
  const OpenAiChat old = Chat(R"("functions": [{"name": "f"}], "function_call": {"name": "f"})");
  EXPECT_TRUE(old.style.functions);
  EXPECT_EQ(old.request.input().tool_choice().function_name(), "f");
}

TEST(OpenAiRequest, NamesTheFieldOfAWrongType) {
  EXPECT_EQ(RefusedField(R"("temperature": true)"), "temperature");
  EXPECT_EQ(RefusedField(R"("stream": "yes")"), "stream");
  EXPECT_EQ(RefusedField(R"("n": 1.5)"), "n");
  EXPECT_EQ(RefusedField(R"("n": 99999999999999999999)"), "n");
  EXPECT_EQ(RefusedField(R"("seed": 18446744073709551615)"), "seed");
  EXPECT_EQ(RefusedField(R"("stop": {"a": 1})"), "stop");
  EXPECT_EQ(RefusedField(R"("stop": ["a", null])"), "stop[1]");
  EXPECT_EQ(RefusedField(R"("logit_bias": {"1": "x"})"), "logit_bias[1]");
  EXPECT_EQ(RefusedField(R"("logit_bias": {"1": 1, "01": 2})"), "logit_bias[01]");
  EXPECT_EQ(RefusedField(R"("tools": {})"), "tools");
  EXPECT_EQ(RefusedField(R"("tools": [{"function": {"name": "f", "parameters": "x"}}])"),
            "tools[0].function.parameters");
  EXPECT_EQ(RefusedField(R"("chat_template_kwargs": [])"), "chat_template_kwargs");
  EXPECT_EQ(RefusedField(R"("stream_options": {"include_usage": true})"), "stream_options");
}

TEST(OpenAiRequest, RefusesWhatIsNotJson) {
  for (const char* body :
       {"", "{", "[]", "null", "{\"a\": 1, \"a\": 2}", "{\"a\": 1e999}", "{\"a\": NaN}",
        "{\"messages\": \"\\ud800\"}", "\xef\xbb\xbf{\"a\": \xff}"}) {
    EXPECT_EQ(ParseChatRequest(body).status().code(), absl::StatusCode::kInvalidArgument) << body;
  }
  const std::string deep = std::string(10000, '[');
  EXPECT_THAT(std::string(ParseChatRequest(deep).status().message()), HasSubstr("deep"));
}

TEST(OpenAiRequest, NeverRepeatsAValueInAnError) {
  for (const char* more :
       {R"("temperature": "secret")", R"("stop": 12345678)", R"("tool_choice": "secret")",
        R"("prompt_logprobs": 12345678)", R"("n": 12345678901)"}) {
    const auto status = ParseChatRequest(absl::StrCat("{", kMessages, ", ", more, "}")).status();
    EXPECT_FALSE(status.ok()) << more;
    EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("secret")));
    EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("12345678")));
  }
}

TEST(OpenAiRequest, ReadsCompletions) {
  auto ids = ParseCompletionRequest(R"({"prompt": [[1, 2]], "logprobs": 0})");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(ids->requests[0].token_ids().ids(), ElementsAre(1, 2));
  EXPECT_TRUE(ids->style.logprobs);
  EXPECT_TRUE(ids->requests[0].options().has_top_logprobs());
  auto echo = ParseCompletionRequest(R"({"prompt": "x", "logprobs": 2, "echo": true})");
  ASSERT_TRUE(echo.ok()) << echo.status();
  EXPECT_EQ(echo->requests[0].prompt_logprobs(), 2u);
}

TEST(OpenAiRequest, ReadsSeveralPrompts) {
  auto mixed =
      ParseCompletionRequest(R"({"prompt": ["a", [1, 2], "c"], "n": 2, "logit_bias": {"5": 1}})");
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  ASSERT_EQ(mixed->requests.size(), 3u);
  EXPECT_EQ(mixed->requests[0].text(), "a");
  EXPECT_THAT(mixed->requests[1].token_ids().ids(), ElementsAre(1, 2));
  EXPECT_EQ(mixed->requests[2].text(), "c");
  for (const auto& request : mixed->requests) {
    EXPECT_EQ(request.options().n(), 2u);
    EXPECT_EQ(request.options().sampling().logit_bias().size(), 1u);
  }
  EXPECT_EQ(ErrorField(ParseCompletionRequest(R"({"prompt": ["a", 7]})").status()), "prompt[1]");
  EXPECT_EQ(ErrorField(ParseCompletionRequest(R"({"prompt": ["a", [1, "x"]]})").status()),
            "prompt[1][1]");
  std::string many = R"({"prompt": ["a")";
  for (size_t i = 1; i < OpenAiCompletion::kMaxPrompts; ++i) many += R"(, "a")";
  EXPECT_TRUE(ParseCompletionRequest(many + "]}").ok());
  EXPECT_EQ(ErrorField(ParseCompletionRequest(many + R"(, "a"]})").status()), "prompt");
}

TEST(OpenAiError, SaysWhichPromptIsMeant) {
  absl::Status status = WithMetadata(InvalidField("text", "must not be empty"), "k", "v");
  status = OfPrompt(status, 3);
  EXPECT_EQ(status.message(), "prompt[3]: must not be empty");
  EXPECT_EQ(ErrorField(status), "prompt[3]");
  EXPECT_EQ(ErrorReason(status), kReasonInvalidField);
  EXPECT_EQ(ErrorMetadata(status, "k"), "v");
  EXPECT_EQ(ErrorField(OfPrompt(InvalidField("token_ids.ids[5]", "x"), 2)), "prompt[2][5]");
  const absl::Status other = InvalidField("options.n", "x");
  EXPECT_EQ(OfPrompt(other, 2), other);
}

TEST(OpenAiError, SpeaksOfFieldsByTheirNamesInJson) {
  EXPECT_EQ(OpenAiFieldName("options.sampling.top_p"), "top_p");
  EXPECT_EQ(OpenAiFieldName("options.stop[1]"), "stop[1]");
  EXPECT_EQ(OpenAiFieldName("input.messages[2].role"), "messages[2].role");
  EXPECT_EQ(OpenAiFieldName("input.messages[2].reasoning"), "messages[2].reasoning_content");
  EXPECT_EQ(OpenAiFieldName("input.messages[2].tool_calls[0].arguments_json"),
            "messages[2].tool_calls[0].function.arguments");
  EXPECT_EQ(OpenAiFieldName("chat.tools[3].name"), "tools[3].function.name");
  EXPECT_EQ(OpenAiFieldName("token_ids.ids[3]"), "prompt[3]");
  EXPECT_EQ(OpenAiFieldName("token_ids[3]"), "tokens[3]");
  EXPECT_EQ(OpenAiFieldName("text"), "prompt");
  EXPECT_EQ(OpenAiErrorJson(InvalidField("options.sampling.top_p", "is 2")),
            R"({"error":{"message":"top_p: is 2","type":"invalid_request_error","param":"top_p",)"
            R"("code":"invalid_value"}})");
}

TEST(OpenAiError, HasACodeWithoutAReasonToo) {
  EXPECT_THAT(OpenAiErrorJson(absl::DeadlineExceededError("too late")),
              HasSubstr("\"code\":\"deadline_exceeded\""));
  EXPECT_THAT(OpenAiErrorJson(WithReason(absl::UnavailableError("x"), kReasonNoWorker)),
              HasSubstr("\"code\":\"no_worker\""));
}

TEST(OpenAiError, TellsWhenToComeBack) {
  const HttpResponse response = OpenAiErrorResponse(
      WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Milliseconds(1200)));
  EXPECT_EQ(response.status, 429);
  EXPECT_THAT(response.headers, testing::Contains(testing::Pair("Retry-After", "2")));
  EXPECT_EQ(OpenAiErrorResponse(absl::UnavailableError("x")).status, 503);
  EXPECT_EQ(OpenAiErrorResponse(absl::DeadlineExceededError("x")).status, 504);
  EXPECT_EQ(OpenAiErrorResponse(absl::UnauthenticatedError("x")).status, 401);
  EXPECT_EQ(OpenAiErrorResponse(absl::InternalError("x")).status, 500);
}

}  // namespace
}  // namespace qwenserve
