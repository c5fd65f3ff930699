#include "services/gateway/call/request_plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/routing/prefix_directory.h"

namespace qwenserve {
namespace {

// What a token and its log-probability take in memory as part of an answer: id, number, bytes, and
// what protobuf and the allocator add.
constexpr size_t kLogprobBytes = 128;
// A token of an answer without it: id and text, in as many copies as there are stages on its way.
constexpr size_t kTokenBytes = 64;

absl::Status TooLong(uint32_t prompt_tokens, uint32_t max_tokens, uint32_t limit) {
  const std::string numbers =
      max_tokens == 0
          ? absl::StrCat("the prompt has ", prompt_tokens, " tokens, the model takes at most ",
                         limit, " with at least one for the answer")
          : absl::StrCat("the prompt's ", prompt_tokens, " tokens and max_tokens ", max_tokens,
                         " are ", uint64_t{prompt_tokens} + max_tokens,
                         " together, the model takes at most ", limit);
  absl::Status status = InvalidField(max_tokens == 0 ? "prompt" : "options.max_tokens", numbers);
  status = WithReason(status, kReasonContextLength);
  status = WithMetadata(status, "prompt_tokens", absl::StrCat(prompt_tokens));
  return WithMetadata(status, "max_model_len", absl::StrCat(limit));
}

}  // namespace

PlacementRequest LeastPlacement(const GenerateRequest& request, const ServedModel& model) {
  PlacementRequest least;
  least.model = model.name;
  least.tokenizer_hash = model.tokenizer_hash;
  least.cost = {request.n(), 0, std::max(1u, request.options.min_tokens())};
  least.priority = request.options.priority();
  return least;
}

PlacementRequest PlanPlacement(const GenerateRequest& request, const ServedModel& model,
                               const v1::PrepareResponse& prompt, uint32_t max_tokens) {
  PlacementRequest plan = LeastPlacement(request, model);
  const std::vector<uint64_t> hashes(prompt.block_hashes().begin(), prompt.block_hashes().end());
  plan.prefix_keys = PrefixKeys(hashes, prompt.block_tokens(), request.options.cache_salt());
  plan.cost = {request.n(), static_cast<uint32_t>(prompt.prompt_ids_size()), max_tokens};
  return plan;
}

absl::StatusOr<uint32_t> AnswerLimit(const GenerateRequest& request, const ServedModel& model,
                                     const v1::PrepareResponse& prompt) {
  const uint32_t prompt_tokens = prompt.prompt_ids_size();
  if (prompt_tokens == 0) return InvalidField("prompt", "has no tokens");
  const uint32_t limit = model.max_model_len;
  if (prompt_tokens >= limit) return TooLong(prompt_tokens, 0, limit);
  const v1::GenerationOptions& options = request.options;
  const uint32_t max_tokens =
      options.has_max_tokens() ? options.max_tokens() : limit - prompt_tokens;
  if (uint64_t{prompt_tokens} + max_tokens > limit) {
    return TooLong(prompt_tokens, max_tokens, limit);
  }
  if (options.min_tokens() > max_tokens) {
    return InvalidField("options.min_tokens", absl::StrCat("is ", options.min_tokens(),
                                                           ", there is room for ", max_tokens));
  }
  for (const auto& [id, bias] : options.sampling().logit_bias()) {
    if (id < model.vocab_size) continue;
    return InvalidField(absl::StrCat("options.sampling.logit_bias[", id, "]"),
                        absl::StrCat("the vocabulary has ids 0 to ", model.vocab_size - 1));
  }
  for (int i = 0; i < options.stop_token_ids_size(); ++i) {
    if (options.stop_token_ids(i) < model.vocab_size) continue;
    return InvalidField(absl::StrCat("options.stop_token_ids[", i, "]"),
                        absl::StrCat("is ", options.stop_token_ids(i),
                                     ", the vocabulary has ids 0 to ", model.vocab_size - 1));
  }
  return max_tokens;
}

size_t AnswerTokenBytes(const GenerateRequest& request) {
  const v1::GenerationOptions& options = request.options;
  return kTokenBytes +
         (options.has_top_logprobs() ? (1 + options.top_logprobs()) * kLogprobBytes : 0);
}

size_t PromptLogprobBytes(const GenerateRequest& request, const v1::PrepareResponse& prompt) {
  if (!request.prompt_logprobs.has_value()) return 0;
  const size_t tokens = prompt.prompt_ids_size();
  return tokens * (1 + *request.prompt_logprobs) * kLogprobBytes;
}

v1::Submit MakeSubmit(const GenerateRequest& request, uint32_t max_tokens,
                      const v1::PrepareResponse& prompt) {
  const v1::GenerationOptions& options = request.options;
  v1::Submit submit;
  submit.set_request_id(request.id);
  submit.set_traceparent(request.caller.traceparent);
  submit.set_max_tokens(max_tokens);
  submit.set_min_tokens(options.min_tokens());
  submit.set_ignore_eos(options.ignore_eos());
  if (options.has_top_logprobs()) submit.set_top_logprobs(options.top_logprobs());
  *submit.mutable_stop_token_ids() = options.stop_token_ids();
  if (!options.ignore_eos()) {
    submit.mutable_stop_token_ids()->MergeFrom(prompt.answer_format().stop_token_ids());
  }
  submit.set_cache_salt(options.cache_salt());
  submit.set_priority(options.priority());
  return submit;
}

Choice::Settings MakeChoiceSettings(const GenerateRequest& request,
                                    const v1::PrepareResponse& prompt) {
  Choice::Settings settings;
  const auto& stop = request.options.stop();
  settings.stop.assign(stop.begin(), stop.end());
  if (request.chat) {
    settings.format = prompt.answer_format();
    const auto& format_stop = settings.format.stop();
    settings.format_stop.assign(format_stop.begin(), format_stop.end());
  }
  settings.tools = request.tools;
  settings.echo_text = request.echo_text;
  settings.logprobs = request.options.has_top_logprobs();
  return settings;
}

}  // namespace qwenserve
