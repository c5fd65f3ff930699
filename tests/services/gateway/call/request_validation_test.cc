#include "services/gateway/call/request_validation.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

v1::ChatRequest GoodChat() {
  v1::ChatRequest request;
  v1::ChatMessage* message = request.mutable_input()->add_messages();
  message->set_role(v1::ROLE_USER);
  message->set_content("hello");
  return request;
}

struct Case {
  std::string field;
  std::function<void(v1::ChatRequest&)> spoil;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

v1::SamplingParams& Sampling(v1::ChatRequest& request) {
  return *request.mutable_options()->mutable_sampling();
}

const Case kCases[] = {
    {"options.sampling.temperature", [](auto& r) { Sampling(r).set_temperature(-0.1f); }},
    {"options.sampling.temperature", [](auto& r) { Sampling(r).set_temperature(NAN); }},
    {"options.sampling.temperature", [](auto& r) { Sampling(r).set_temperature(INFINITY); }},
    {"options.sampling.top_p", [](auto& r) { Sampling(r).set_top_p(0); }},
    {"options.sampling.top_p", [](auto& r) { Sampling(r).set_top_p(1.01f); }},
    {"options.sampling.top_p", [](auto& r) { Sampling(r).set_top_p(NAN); }},
    {"options.sampling.top_k", [](auto& r) { Sampling(r).set_top_k(0x80000000u); }},
    {"options.sampling.min_p", [](auto& r) { Sampling(r).set_min_p(-0.1f); }},
    {"options.sampling.min_p", [](auto& r) { Sampling(r).set_min_p(1.1f); }},
    {"options.sampling.repetition_penalty", [](auto& r) { Sampling(r).set_repetition_penalty(0); }},
    {"options.sampling.repetition_penalty",
     [](auto& r) { Sampling(r).set_repetition_penalty(INFINITY); }},
    {"options.sampling.presence_penalty", [](auto& r) { Sampling(r).set_presence_penalty(2.1f); }},
    {"options.sampling.frequency_penalty",
     [](auto& r) { Sampling(r).set_frequency_penalty(-2.1f); }},
    {"options.sampling.logit_bias[5]",
     [](auto& r) { (*Sampling(r).mutable_logit_bias())[5] = 100.5f; }},
    {"options.sampling.logit_bias[5]",
     [](auto& r) { (*Sampling(r).mutable_logit_bias())[5] = NAN; }},
    {"options.sampling.logit_bias",
     [](auto& r) {
       for (uint32_t i = 0; i < 1025; ++i) (*Sampling(r).mutable_logit_bias())[i] = 1;
     }},
    {"options.max_tokens", [](auto& r) { r.mutable_options()->set_max_tokens(0); }},
    {"options.min_tokens",
     [](auto& r) {
       r.mutable_options()->set_max_tokens(3);
       r.mutable_options()->set_min_tokens(4);
     }},
    {"options.n", [](auto& r) { r.mutable_options()->set_n(17); }},
    {"options.stop",
     [](auto& r) {
       for (int i = 0; i < 17; ++i) r.mutable_options()->add_stop("x");
     }},
    {"options.stop[1]",
     [](auto& r) {
       r.mutable_options()->add_stop("x");
       r.mutable_options()->add_stop("");
     }},
    {"options.stop[0]", [](auto& r) { r.mutable_options()->add_stop(std::string(257, 'x')); }},
    {"options.stop_token_ids",
     [](auto& r) {
       for (uint32_t i = 0; i < 17; ++i) r.mutable_options()->add_stop_token_ids(i);
     }},
    {"options.top_logprobs", [](auto& r) { r.mutable_options()->set_top_logprobs(21); }},
    {"options.cache_salt",
     [](auto& r) { r.mutable_options()->set_cache_salt(std::string(257, 'x')); }},
    {"options.priority", [](auto& r) { r.mutable_options()->set_priority(1001); }},
    {"options.priority", [](auto& r) { r.mutable_options()->set_priority(-1001); }},
    {"model", [](auto& r) { r.set_model(std::string(257, 'x')); }},
    {"request_id", [](auto& r) { r.set_request_id(std::string(129, 'x')); }},
    {"request_id", [](auto& r) { r.set_request_id("two\nlines"); }},
    {"input.messages", [](auto& r) { r.mutable_input()->clear_messages(); }},
    {"input.messages[0].role",
     [](auto& r) { r.mutable_input()->mutable_messages(0)->clear_role(); }},
    {"input.messages[0].role",
     [](auto& r) { r.mutable_input()->mutable_messages(0)->set_role(static_cast<v1::Role>(9)); }},
    {"input.messages[0].reasoning",
     [](auto& r) { r.mutable_input()->mutable_messages(0)->set_reasoning("hm"); }},
    {"input.messages[0].tool_calls",
     [](auto& r) { r.mutable_input()->mutable_messages(0)->add_tool_calls()->set_name("f"); }},
    {"input.messages[0].tool_call_id",
     [](auto& r) { r.mutable_input()->mutable_messages(0)->set_tool_call_id("1"); }},
    {"input.messages[1].tool_calls[0].name",
     [](auto& r) {
       v1::ChatMessage* message = r.mutable_input()->add_messages();
       message->set_role(v1::ROLE_ASSISTANT);
       message->add_tool_calls();
     }},
    {"input.messages",
     [](auto& r) {
       for (int i = 0; i < 4096; ++i) r.mutable_input()->add_messages()->set_role(v1::ROLE_USER);
     }},
    {"input",
     [](auto& r) {
       r.mutable_input()->mutable_messages(0)->set_content(std::string((4 << 20) + 1, 'x'));
     }},
    {"input.tools[0].name", [](auto& r) { r.mutable_input()->add_tools(); }},
    {"input.tools",
     [](auto& r) {
       for (int i = 0; i < 129; ++i) r.mutable_input()->add_tools()->set_name("f");
     }},
    {"input.tool_choice.mode",
     [](auto& r) {
       r.mutable_input()->mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_REQUIRED);
     }},
    {"input.tool_choice.function_name",
     [](auto& r) {
       r.mutable_input()->add_tools()->set_name("f");
       r.mutable_input()->mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_FUNCTION);
       r.mutable_input()->mutable_tool_choice()->set_function_name("g");
     }},
    {"input.tool_choice.mode",
     [](auto& r) {
       r.mutable_input()->add_tools()->set_name("f");
       r.mutable_input()->mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_REQUIRED);
       r.mutable_input()->set_add_generation_prompt(false);
     }},
    {"input.tool_choice.mode",
     [](auto& r) {
       r.mutable_input()->mutable_tool_choice()->set_mode(static_cast<v1::ToolChoice::Mode>(9));
     }},
    {"input.continue_final_message",
     [](auto& r) { r.mutable_input()->set_continue_final_message(true); }},
    {"input.continue_final_message",
     [](auto& r) {
       r.mutable_input()->add_messages()->set_role(v1::ROLE_ASSISTANT);
       r.mutable_input()->set_continue_final_message(true);
       r.mutable_input()->set_add_generation_prompt(true);
     }},
};

TEST(RequestValidationTest, EachFieldIsRefusedByName) {
  for (const Case& test : kCases) {
    v1::ChatRequest request = GoodChat();
    ASSERT_TRUE(ValidateChat(request, {}).ok());
    test.spoil(request);
    const absl::Status status = ValidateChat(request, {}).status();
    EXPECT_EQ(status.code(), test.code) << test.field << ": " << status;
    EXPECT_EQ(ErrorField(status), test.field) << status;
    EXPECT_EQ(ErrorReason(status), test.code == absl::StatusCode::kUnimplemented
                                       ? kReasonNotBuiltYet
                                       : kReasonInvalidField);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(test.field));
  }
}

TEST(RequestValidationTest, TheLimitsThemselvesAreAllowed) {
  v1::ChatRequest request = GoodChat();
  v1::SamplingParams& sampling = Sampling(request);
  sampling.set_temperature(0);
  sampling.set_top_p(1);
  sampling.set_top_k(0x7fffffffu);
  sampling.set_min_p(1);
  sampling.set_repetition_penalty(0.5f);
  sampling.set_presence_penalty(-2);
  sampling.set_frequency_penalty(2);
  sampling.set_seed(~uint64_t{0});
  for (uint32_t i = 0; i < 1024; ++i) (*sampling.mutable_logit_bias())[i] = i % 2 ? -100 : 100;
  request.mutable_options()->set_max_tokens(1);
  request.mutable_options()->set_min_tokens(1);
  request.mutable_options()->set_top_logprobs(20);
  request.mutable_options()->set_n(16);
  for (int i = 0; i < 16; ++i) request.mutable_options()->add_stop(std::string(256, 'x'));
  request.mutable_options()->set_priority(-1000);
  request.set_request_id(std::string(128, '~'));
  request.mutable_input()->add_tools()->set_name("f");
  request.set_parallel_tool_calls(true);
  const absl::StatusOr<GenerateRequest> result = ValidateChat(request, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->n(), 16u);
  ASSERT_NE(result->tools, nullptr);
  EXPECT_EQ(result->tools->names, std::vector<std::string>{"f"});
  EXPECT_FALSE(result->tools->single_call);
}

TEST(RequestValidationTest, ACallMayBeAskedForAndMayBeTheOnlyOne) {
  v1::ChatRequest request = GoodChat();
  request.mutable_input()->add_tools()->set_name("f");
  request.mutable_input()->add_tools()->set_name("g");
  request.mutable_input()->mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_FUNCTION);
  request.mutable_input()->mutable_tool_choice()->set_function_name("g");
  request.set_parallel_tool_calls(false);
  const absl::StatusOr<GenerateRequest> result = ValidateChat(request, {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->prompt.chat().tool_choice().function_name(), "g");
  EXPECT_TRUE(result->tools->single_call);
}

TEST(RequestValidationTest, ToolChoiceNoneHidesTheTools) {
  v1::ChatRequest request = GoodChat();
  request.mutable_input()->add_tools()->set_name("f");
  request.mutable_input()->mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_NONE);
  const absl::StatusOr<GenerateRequest> result = ValidateChat(request, {});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->prompt.chat().tools_size(), 0);
  EXPECT_EQ(result->tools, nullptr);
}

TEST(RequestValidationTest, Complete) {
  v1::CompleteRequest request;
  EXPECT_EQ(ErrorField(ValidateComplete(request, {}).status()), "prompt");
  request.set_text("");
  EXPECT_EQ(ErrorField(ValidateComplete(request, {}).status()), "text");
  request.set_text(std::string((4 << 20) + 1, 'x'));
  EXPECT_EQ(ErrorField(ValidateComplete(request, {}).status()), "text");
  request.mutable_token_ids();
  EXPECT_EQ(ErrorField(ValidateComplete(request, {}).status()), "token_ids");
  request.mutable_token_ids()->add_ids(1);
  EXPECT_TRUE(ValidateComplete(request, {}).ok());
  request.set_echo(true);
  const absl::Status status = ValidateComplete(request, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ErrorField(status), "echo");
}

TEST(RequestValidationTest, PathsOfTheTokenizerBecomeTheClients) {
  const absl::Status status = WithClientPaths(InvalidField("messages[2].role", "is odd"), "input");
  EXPECT_EQ(ErrorField(status), "input.messages[2].role");
  EXPECT_EQ(status.message(), "input.messages[2].role: is odd");
  EXPECT_EQ(ErrorReason(status), kReasonInvalidField);
  EXPECT_EQ(ErrorField(WithClientPaths(InvalidField("prompt", "is long"), "input")), "prompt");
  EXPECT_EQ(WithClientPaths(absl::InternalError("x"), "input"), absl::InternalError("x"));
}

}  // namespace
}  // namespace qwenserve
