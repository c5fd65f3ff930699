#include "services/gateway/answer/response_builder.h"

#include <utility>

namespace qwenserve {
namespace {

template <typename Message>
void AddIds(const AnswerDelta& delta, Message* message) {
  message->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
}

template <typename List>
void AddLogprobs(std::vector<v1::TokenLogprob>& logprobs, List* list) {
  for (v1::TokenLogprob& token : logprobs) *list->Add() = std::move(token);
}

template <typename Response>
auto* ChoiceAt(uint32_t index, Response* response) {
  while (response->choices_size() <= static_cast<int>(index)) {
    response->add_choices()->set_index(response->choices_size() - 1);
  }
  return response->mutable_choices(static_cast<int>(index));
}

template <typename Response>
void Finish(const v1::Finished& finished, Response* response) {
  *response->mutable_usage() = finished.usage();
  for (const v1::ChoiceFinish& finish : finished.choices()) {
    auto* choice = ChoiceAt(finish.index(), response);
    choice->set_finish_reason(finish.finish_reason());
    if (finish.has_stop_string()) choice->set_stop_string(finish.stop_string());
  }
}

}  // namespace

void SetDelta(AnswerDelta delta, v1::StreamChatResponse* response) {
  v1::ChatDelta* message = response->mutable_delta();
  message->Clear();
  message->set_choice(delta.choice);
  message->set_first_token_index(delta.first_token_index);
  message->set_text(std::move(delta.text));
  message->set_reasoning(std::move(delta.reasoning));
  for (v1::ToolCallDelta& call : delta.tool_calls) *message->add_tool_calls() = std::move(call);
  AddIds(delta, message);
  AddLogprobs(delta.logprobs, message->mutable_logprobs());
}

void SetDelta(AnswerDelta delta, v1::StreamCompleteResponse* response) {
  v1::CompletionDelta* message = response->mutable_delta();
  message->Clear();
  message->set_choice(delta.choice);
  message->set_first_token_index(delta.first_token_index);
  message->set_text(std::move(delta.text));
  AddIds(delta, message);
  AddLogprobs(delta.logprobs, message->mutable_logprobs());
  message->set_first_prompt_index(delta.first_prompt_index);
  AddLogprobs(delta.prompt_logprobs, message->mutable_prompt_logprobs());
}

void AppendDelta(AnswerDelta delta, v1::ChatResponse* response) {
  v1::ChatChoice* choice = ChoiceAt(delta.choice, response);
  AddIds(delta, choice);
  AddLogprobs(delta.logprobs, choice->mutable_logprobs());
  v1::ChatMessage* message = choice->mutable_message();
  message->mutable_content()->append(delta.text);
  message->mutable_reasoning()->append(delta.reasoning);
  for (v1::ToolCallDelta& delta_call : delta.tool_calls) {
    if (static_cast<int>(delta_call.index()) == message->tool_calls_size()) {
      v1::ToolCall* call = message->add_tool_calls();
      call->set_id(std::move(*delta_call.mutable_id()));
      call->set_name(std::move(*delta_call.mutable_name()));
    }
    message->mutable_tool_calls(static_cast<int>(delta_call.index()))
        ->mutable_arguments_json()
        ->append(delta_call.arguments_json());
  }
}

void AppendDelta(AnswerDelta delta, v1::CompleteResponse* response) {
  v1::CompletionChoice* choice = ChoiceAt(delta.choice, response);
  AddIds(delta, choice);
  AddLogprobs(delta.logprobs, choice->mutable_logprobs());
  AddLogprobs(delta.prompt_logprobs, response->mutable_prompt_logprobs());
  choice->mutable_text()->append(delta.text);
}

void SetFinished(const v1::Finished& finished, v1::ChatResponse* response) {
  Finish(finished, response);
  for (v1::ChatChoice& choice : *response->mutable_choices()) {
    choice.mutable_message()->set_role(v1::ROLE_ASSISTANT);
  }
}

void SetFinished(const v1::Finished& finished, v1::CompleteResponse* response) {
  Finish(finished, response);
}

}  // namespace qwenserve
