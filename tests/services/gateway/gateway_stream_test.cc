#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "services/common/errors/error_details.h"
#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(GatewayTest, StreamIsStartedDeltasFinishedOk) {
  Start();
  v1::ChatRequest request = UserSays("hello");
  request.set_request_id("my-request");
  request.mutable_options()->mutable_sampling()->set_seed(42);
  ChatStream stream(stub(), request);
  const v1::Submit submit = generator_->WaitSubmit(0);

  const v1::StreamChatResponse started = stream.Next();
  ASSERT_TRUE(started.has_started());
  EXPECT_EQ(started.started().request_id(), "my-request");
  EXPECT_EQ(started.started().seed(), 42u);
  EXPECT_EQ(started.started().model(), "fake");
  EXPECT_EQ(started.started().prompt_tokens(), 5u);
  EXPECT_EQ(started.started().fingerprint(), "fingerprint-1");

  generator_->SendTokens(submit.sequence(), "ab");
  v1::StreamChatResponse delta = stream.Next();
  ASSERT_TRUE(delta.has_delta());
  EXPECT_EQ(delta.delta().text(), "ab");
  EXPECT_THAT(delta.delta().token_ids(), ElementsAre('a', 'b'));
  EXPECT_EQ(delta.delta().first_token_index(), 0u);

  generator_->SendTokens(submit.sequence(), "c");
  delta = stream.Next();
  EXPECT_EQ(delta.delta().text(), "c");
  EXPECT_EQ(delta.delta().first_token_index(), 2u);

  generator_->SendFinish(submit.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  const v1::StreamChatResponse last = stream.Next();
  ASSERT_TRUE(last.has_finished());
  ASSERT_EQ(last.finished().choices_size(), 1);
  EXPECT_EQ(last.finished().choices(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(last.finished().choices(0).completion_tokens(), 3u);
  EXPECT_EQ(last.finished().usage().prompt_tokens(), 5u);
  EXPECT_EQ(last.finished().usage().completion_tokens(), 3u);
  v1::StreamChatResponse more;
  EXPECT_FALSE(stream.Read(&more));
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayTest, SubmitCarriesResolvedParameters) {
  FakeGenerator::Options options;
  options.hello.mutable_default_sampling()->set_temperature(0.5f);
  options.hello.mutable_default_sampling()->set_top_k(20);
  options.hello.mutable_default_sampling()->set_repetition_penalty(1.1f);
  Start(options);
  v1::ChatRequest request = UserSays("hi");
  request.mutable_options()->mutable_sampling()->set_temperature(0);
  request.mutable_options()->set_priority(3);
  request.mutable_options()->set_cache_salt("salt");
  ChatStream stream(stub(), request);
  const v1::Submit submit = generator_->WaitSubmit(0);
  EXPECT_TRUE(submit.sampling().has_temperature());
  EXPECT_EQ(submit.sampling().temperature(), 0);  // 0 is a value, not unset
  EXPECT_EQ(submit.sampling().top_k(), 20u);
  EXPECT_FLOAT_EQ(submit.sampling().repetition_penalty(), 1.1f);
  EXPECT_TRUE(submit.sampling().has_top_p());
  EXPECT_EQ(submit.sampling().top_p(), 1);
  EXPECT_TRUE(submit.sampling().has_seed());
  EXPECT_EQ(submit.max_tokens(), 4094u);  // the room left
  EXPECT_EQ(submit.priority(), 3);
  EXPECT_EQ(submit.cache_salt(), "salt");
  EXPECT_TRUE(submit.has_time_left());
  EXPECT_LE(submit.time_left().seconds(), 60);
  EXPECT_FALSE(submit.request_id().empty());
  EXPECT_GT(submit.initial_credit(), 0u);
  EXPECT_EQ(stream.Next().started().seed(), submit.sampling().seed());
}

TEST_F(GatewayTest, NoHeadersBeforeAdmission) {
  Start();
  tokenizer_->HoldPrepare(true);
  ChatStream stream(stub(), UserSays("hello"));
  ASSERT_TRUE(Eventually([&] { return tokenizer_->num_prepared() == 1; }));
  tokenizer_->FailPrepare(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "scripted"));
  tokenizer_->HoldPrepare(false);
  v1::StreamChatResponse response;
  EXPECT_FALSE(stream.Read(&response));
  EXPECT_FALSE(stream.Finish().ok());
  // A server that sends nothing but trailers sends no initial metadata of its own.
  EXPECT_TRUE(stream.context().GetServerInitialMetadata().empty());
}

TEST_F(GatewayTest, UnaryFormsReturnTheWholeAnswer) {
  StartEcho();
  v1::ChatResponse chat;
  ASSERT_TRUE(CallChat(stub(), UserSays("echo this"), &chat).ok());
  ASSERT_EQ(chat.choices_size(), 1);
  EXPECT_EQ(chat.choices(0).message().content(), "echo this");
  EXPECT_EQ(chat.choices(0).message().role(), v1::ROLE_ASSISTANT);
  EXPECT_EQ(chat.choices(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(chat.choices(0).token_ids_size(), 9);
  EXPECT_EQ(chat.usage().completion_tokens(), 9u);
  EXPECT_EQ(chat.started().prompt_tokens(), 9u);

  v1::CompleteRequest request = Prompt("a longer prompt");
  request.mutable_options()->set_max_tokens(8);
  request.set_echo(true);
  v1::CompleteResponse complete;
  ASSERT_TRUE(CallComplete(stub(), request, &complete).ok());
  ASSERT_EQ(complete.choices_size(), 1);
  EXPECT_EQ(complete.choices(0).text(), "a longer prompta longer");
  EXPECT_EQ(complete.choices(0).token_ids_size(), 8);
  EXPECT_EQ(complete.choices(0).finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GatewayTest, TokenIdsAreAPrompt) {
  StartEcho();
  v1::CompleteRequest request;
  for (char c : {'o', 'k'}) request.mutable_token_ids()->add_ids(c);
  CompleteStream stream(stub(), request);
  EXPECT_EQ(stream.ReadText(), "ok");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayTest, CharacterSplitOverStepsIsSentWhole) {
  Start();
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  EXPECT_TRUE(stream.Next().has_started());
  const std::string emoji = "\xF0\x9F\x98\x80";
  for (size_t i = 0; i < 3; ++i) {
    generator_->SendTokens(sequence, emoji.substr(i, 1));
    const v1::StreamChatResponse response = stream.Next();
    EXPECT_EQ(response.delta().text(), "");  // the tokens come, their text waits
    EXPECT_EQ(response.delta().token_ids_size(), 1);
  }
  generator_->SendTokens(sequence, emoji.substr(3));
  EXPECT_EQ(stream.Next().delta().text(), emoji);
  // One that stays unfinished is replaced at the end.
  generator_->SendTokens(sequence, emoji.substr(0, 2));
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_LENGTH);
  EXPECT_EQ(stream.ReadText(), "\xEF\xBF\xBD");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayTest, StopStringEndsAnswerAndSequence) {
  Start();
  v1::ChatRequest request = UserSays("hello");
  request.mutable_options()->add_stop("END");
  ChatStream stream(stub(), request);
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  generator_->SendTokens(sequence, "so E");
  generator_->SendTokens(sequence, "Nd EN");
  generator_->SendTokens(sequence, "D and more");
  std::string text;
  std::string ids;
  v1::Finished finished;
  v1::StreamChatResponse response;
  while (stream.Read(&response)) {
    text += response.delta().text();
    for (uint32_t id : response.delta().token_ids()) ids.push_back(static_cast<char>(id));
    if (response.has_finished()) finished = response.finished();
  }
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_EQ(text, "so ENd ");
  EXPECT_EQ(ids, "so ENd END");  // up to the token that completes the stop string
  ASSERT_EQ(finished.choices_size(), 1);
  EXPECT_EQ(finished.choices(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(finished.choices(0).stop_string(), "END");
  EXPECT_EQ(finished.usage().completion_tokens(), 10u);
  EXPECT_TRUE(generator_->WaitCancelled(sequence));
}

TEST_F(GatewayTest, SeveralAnswersAreSeparateSequences) {
  Start();
  v1::ChatRequest request = UserSays("hello");
  request.mutable_options()->set_n(3);
  request.mutable_options()->mutable_sampling()->set_seed(7);
  ChatStream stream(stub(), request);
  std::set<uint64_t> sequences;
  for (uint32_t i = 0; i < 3; ++i) {
    const v1::Submit submit = generator_->WaitSubmit(i);
    EXPECT_EQ(submit.sample_index(), i);
    EXPECT_EQ(submit.sampling().seed(), 7u);
    EXPECT_EQ(submit.request_id(), generator_->WaitSubmit(0).request_id());
    sequences.insert(submit.sequence());
    generator_->SendTokens(submit.sequence(), std::string(i + 1, static_cast<char>('a' + i)));
    generator_->SendFinish(submit.sequence(), v1::SEQUENCE_FINISH_REASON_EOS);
  }
  EXPECT_EQ(sequences.size(), 3u);
  std::map<uint32_t, std::string> texts;
  v1::Finished finished;
  v1::StreamChatResponse response;
  while (stream.Read(&response)) {
    if (response.has_delta()) texts[response.delta().choice()] += response.delta().text();
    if (response.has_finished()) finished = response.finished();
  }
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_EQ(texts[0], "a");
  EXPECT_EQ(texts[1], "bb");
  EXPECT_EQ(texts[2], "ccc");
  EXPECT_EQ(finished.choices_size(), 3);
  EXPECT_EQ(finished.usage().completion_tokens(), 6u);
}

TEST_F(GatewayTest, StopTokensOfTheRequestComeBesideThoseOfTheFormat) {
  FakeTokenizer::Options tokenizer;
  tokenizer.answer_format.add_stop_token_ids(3);
  Start({}, tokenizer);
  v1::ChatRequest request = UserSays("hello");
  request.mutable_options()->add_stop_token_ids(7);
  ChatStream both(stub(), request);
  EXPECT_THAT(generator_->WaitSubmit(0).stop_token_ids(), ElementsAre(7, 3));
  request.mutable_options()->set_ignore_eos(true);
  ChatStream own(stub(), request);
  EXPECT_THAT(generator_->WaitSubmit(1).stop_token_ids(), ElementsAre(7));
}

TEST_F(GatewayTest, ReasoningAndToolCallsAreTold) {
  FakeTokenizer::Options tokenizer;
  tokenizer.answer_format.set_may_reason(true);
  tokenizer.answer_format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_JSON_TAGS);
  tokenizer.answer_format.add_stop_token_ids(3);
  Start({}, tokenizer);
  v1::ChatRequest request = UserSays("hello");
  request.mutable_input()->add_tools()->set_name("weather");
  ChatStream stream(stub(), request);
  const v1::Submit submit = generator_->WaitSubmit(0);
  EXPECT_THAT(submit.stop_token_ids(), ElementsAre(3));
  for (const char* piece : {"<thi", "nk>\nlet me", " see\n</think>\n\nI look.",
                            "\n<tool_call>\n{\"name\": \"weather\", ",
                            "\"arguments\": {\"city\":  \"Ulm\"}}\n</tool_call>"}) {
    generator_->SendTokens(submit.sequence(), piece);
  }
  generator_->SendFinish(submit.sequence(), v1::SEQUENCE_FINISH_REASON_STOP_TOKEN);
  std::string text;
  std::string reasoning;
  std::vector<v1::ToolCallDelta> calls;
  v1::Finished finished;
  v1::StreamChatResponse response;
  while (stream.Read(&response)) {
    text += response.delta().text();
    reasoning += response.delta().reasoning();
    for (const auto& call : response.delta().tool_calls()) calls.push_back(call);
    if (response.has_finished()) finished = response.finished();
  }
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_EQ(reasoning, "let me see");
  EXPECT_EQ(text, "I look.");
  ASSERT_FALSE(calls.empty());
  EXPECT_EQ(calls[0].name(), "weather");
  EXPECT_FALSE(calls[0].id().empty());
  std::string arguments;
  for (const auto& call : calls) arguments += call.arguments_json();
  EXPECT_EQ(arguments, "{\"city\":  \"Ulm\"}");
  EXPECT_EQ(finished.choices(0).finish_reason(), v1::FINISH_REASON_TOOL_CALLS);
  EXPECT_GT(finished.usage().reasoning_tokens(), 0u);
}

// One answer's calls, and how it ended.
struct CallsOfStream {
  std::vector<v1::ToolCallDelta> calls;  // whole
  std::string text;
  v1::Finished finished;
};

CallsOfStream ReadCalls(ChatStream& stream) {
  CallsOfStream result;
  v1::StreamChatResponse response;
  while (stream.Read(&response)) {
    result.text += response.delta().text();
    for (const auto& delta : response.delta().tool_calls()) {
      if (delta.index() == result.calls.size()) {
        result.calls.push_back(delta);
      } else {
        result.calls[delta.index()].mutable_arguments_json()->append(delta.arguments_json());
      }
    }
    if (response.has_finished()) result.finished = response.finished();
  }
  EXPECT_TRUE(stream.Finish().ok());
  return result;
}

TEST_F(GatewayTest, ReActCallsEndAtTheObservation) {
  FakeTokenizer::Options tokenizer;
  tokenizer.answer_format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_REACT);
  tokenizer.answer_format.add_stop("Observation:");
  Start({}, tokenizer);
  v1::ChatRequest request = UserSays("hello");
  request.mutable_input()->add_tools()->set_name("weather");
  ChatStream stream(stub(), request);
  const v1::Submit submit = generator_->WaitSubmit(0);
  generator_->SendTokens(submit.sequence(),
                         "Thought: look.\nAction: weather\nAction Input: {\"a\"");
  generator_->SendTokens(submit.sequence(), ": 1}\nObserv");
  generator_->SendTokens(submit.sequence(), "ation: it is cold");
  const CallsOfStream result = ReadCalls(stream);
  EXPECT_EQ(result.text, "look.");
  ASSERT_EQ(result.calls.size(), 1u);
  EXPECT_EQ(result.calls[0].arguments_json(), "{\"a\": 1}");
  EXPECT_EQ(result.finished.choices(0).finish_reason(), v1::FINISH_REASON_TOOL_CALLS);
  EXPECT_FALSE(result.finished.choices(0).has_stop_string());
}

TEST_F(GatewayTest, TheOnlyCallEndsTheAnswerAndARetryHasItsId) {
  FakeTokenizer::Options tokenizer;
  tokenizer.answer_format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_JSON_TAGS);
  tokenizer.answer_format.set_opening("<tool_call>\n{\"name\": \"weather\", \"arguments\":");
  Start({}, tokenizer);
  v1::ChatRequest request = UserSays("hello");
  request.mutable_input()->add_tools()->set_name("weather");
  request.set_parallel_tool_calls(false);
  std::vector<std::string> ids;
  for (const uint64_t seed : {5, 5, 6}) {
    request.mutable_options()->mutable_sampling()->set_seed(seed);
    ChatStream stream(stub(), request);
    const v1::Submit submit = generator_->WaitSubmit(ids.size());
    generator_->SendTokens(submit.sequence(), " {}}\n</tool_call>\n<tool_call>");
    const CallsOfStream result = ReadCalls(stream);
    ASSERT_EQ(result.calls.size(), 1u);
    EXPECT_EQ(result.calls[0].name(), "weather");
    EXPECT_EQ(result.calls[0].arguments_json(), "{}");
    EXPECT_EQ(result.finished.choices(0).finish_reason(), v1::FINISH_REASON_TOOL_CALLS);
    // " {}}": a token of the fake tokenizer is a byte.
    EXPECT_EQ(result.finished.choices(0).completion_tokens(), 4u);
    EXPECT_TRUE(generator_->WaitCancelled(submit.sequence()));
    ids.push_back(result.calls[0].id());
  }
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_NE(ids[0], ids[2]);
}

TEST_F(GatewayTest, ItemsOfOneStepShareAMessage) {
  Start();
  constexpr int kStreams = 8;
  std::vector<std::unique_ptr<ChatStream>> streams;
  v1::StepEvents step;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(std::make_unique<ChatStream>(stub(), UserSays("hello")));
    v1::SequenceEvent* event = step.add_events();
    event->set_sequence(generator_->WaitSubmit(i).sequence());
    event->add_token_ids('x');
  }
  for (auto& stream : streams) EXPECT_TRUE(stream->Next().has_started());
  generator_->Send(step);
  for (auto& stream : streams) EXPECT_EQ(stream->Next().delta().text(), "x");
  EXPECT_THAT(tokenizer_->message_sizes(), ElementsAre(kStreams));
}

TEST_F(GatewayTest, AnswersOfABusyTokenizerCoalesce) {
  Start();
  ChatStream stream(stub(), UserSays("hello"));
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  EXPECT_TRUE(stream.Next().has_started());
  ChatStream later(stub(), UserSays("hello"));
  const uint64_t later_sequence = generator_->WaitSubmit(1).sequence();
  tokenizer_->HoldAnswers(true);
  generator_->SendTokens(sequence, "a");
  ASSERT_TRUE(Eventually([&] { return tokenizer_->num_items() == 1; }));
  for (const char* token : {"b", "c", "d"}) generator_->SendTokens(sequence, token);
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  // When another sequence has ended after it, all ids of this one wait behind the item that is out.
  generator_->SendFinish(later_sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  ASSERT_TRUE(Eventually([&] {
    v1::GetStatusResponse status;
    harness_->gateway().FillStatus(&status);
    uint32_t sequences = 0;
    for (const v1::WorkerStatus& worker : status.workers()) {
      if (worker.role() == "generator") sequences += worker.requests_in_flight();
    }
    return sequences == 0;
  }));
  tokenizer_->HoldAnswers(false);
  EXPECT_EQ(stream.Next().delta().text(), "a");
  EXPECT_EQ(stream.Next().delta().text(), "bcd");
  EXPECT_TRUE(stream.Next().has_finished());
  EXPECT_EQ(tokenizer_->num_items(), 2);
}

TEST_F(GatewayTest, ClientThatDoesNotReadPausesItsSequence) {
  FakeGenerator::Options generator;
  generator.hello.mutable_limits()->set_max_model_len(1 << 20);
  generator.echo = true;
  Start(generator, {}, [](GatewayOptions& options) {
    options.call.credit_window = 64;
    options.request_limits.max_input_bytes = 1 << 20;
  });
  // More than the buffers between gateway and client hold.
  const std::string text(100000, 'x');
  ChatStream stream(stub(), UserSays(text));
  const v1::Submit submit = generator_->WaitSubmit(0);
  EXPECT_EQ(submit.initial_credit(), 64u);
  // Credits stop while the client does not read...
  uint32_t before = 0;
  ASSERT_TRUE(Eventually([&] {
    const uint32_t now = generator_->credit(submit.sequence());
    const bool stands = now == before && now > 0;
    before = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return stands;
  }));
  EXPECT_LT(before, text.size());
  // ...and go on when it does.
  EXPECT_EQ(stream.ReadText(), text);
  EXPECT_TRUE(stream.Finish().ok());
}

TEST_F(GatewayTest, SlowClientIsDroppedInTheEnd) {
  FakeGenerator::Options generator;
  generator.hello.mutable_limits()->set_max_model_len(1 << 20);
  generator.echo = true;
  Start(generator, {}, [](GatewayOptions& options) {
    options.call.slow_client_timeout = absl::Milliseconds(300);
    options.request_limits.max_input_bytes = 1 << 20;
  });
  ChatStream stream(stub(), UserSays(std::string(100000, 'x')));
  const v1::Submit submit = generator_->WaitSubmit(0);
  // What it may hold is counted from the start: a window of tokens for each choice.
  EXPECT_GE(harness_->gateway().admission().bytes(), 100000 + 256 * 64);
  // Others of its replica read on, over the same connection.
  for (int i = 0; i < 20; ++i) {
    ChatStream other(stub(), UserSays("hello"));
    EXPECT_EQ(other.ReadText(), "hello");
    EXPECT_TRUE(other.Finish().ok());
  }
  EXPECT_TRUE(generator_->WaitCancelled(submit.sequence()));
  EXPECT_TRUE(Eventually([&] { return harness_->gateway().in_flight() == 0; }));
  EXPECT_EQ(harness_->gateway().admission().bytes(), 0);
  EXPECT_THAT(harness_->Scrape(),
              HasSubstr("qwenserve_gateway_sheds_total{cause=\"slow_consumer\"} 1"));
  stream.ReadText();
  EXPECT_FALSE(stream.Finish().ok());
}

TEST_F(GatewayTest, ManyStreamsAtOnce) {
  FakeGenerator::Options options;
  options.echo = true;
  options.hello.mutable_limits()->set_max_running(8);  // most of them wait
  options.hello.mutable_limits()->set_max_batch_tokens(16);
  Start(options);
  constexpr int kThreads = 8;
  constexpr int kCalls = 25;
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kCalls; ++i) {
        const std::string text = "text " + std::to_string(t) + "/" + std::to_string(i);
        ChatStream stream(stub(), UserSays(text));
        const bool same = stream.ReadText() == text;
        if (stream.Finish().ok() && same) ++good;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, kThreads * kCalls);
  EXPECT_TRUE(Eventually([&] { return harness_->gateway().in_flight() == 0; }));
  EXPECT_THAT(harness_->Scrape(),
              HasSubstr("qwenserve_gateway_requests_total{code=\"OK\",method=\"StreamChat\"} 200"));
}

}  // namespace
}  // namespace qwenserve
