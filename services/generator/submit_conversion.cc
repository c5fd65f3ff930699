#include "services/generator/submit_conversion.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/logging.h"
#include "services/common/proto_time.h"
#include "services/common/tracing/trace_context.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kMaxTraceparentBytes = 55;
constexpr size_t kMaxCacheSaltBytes = 256;

// Escaped: only a gateway that is none would send anything but hex.
void LogSubmit(const v1::Submit& submit) {
  if (!spdlog::should_log(spdlog::level::debug)) return;
  const std::string id = absl::CEscape(submit.request_id());
  const std::string trace_id = TraceIdText(ParseTraceparent(submit.traceparent()));
  const LogScope scope(id, trace_id);
  spdlog::debug("request {} sample {} attempt {}: {} prompt tokens, trace {}", id,
                submit.sample_index(), submit.attempt(), submit.prompt_ids_size(),
                trace_id.empty() ? "none" : trace_id);
}

absl::Status CheckIds(const google::protobuf::RepeatedField<uint32_t>& ids, int64_t vocab_size,
                      const std::string& field, std::vector<int32_t>* out) {
  out->reserve(ids.size());
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= static_cast<uint64_t>(vocab_size)) {
      return InvalidField(absl::StrCat(field, "[", i, "]"),
                          absl::StrCat("id ", ids[i], " is not below ", vocab_size));
    }
    out->push_back(static_cast<int32_t>(ids[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<SamplingParams> ToSamplingParams(const v1::Submit& submit) {
  const v1::SamplingParams& wire = submit.sampling();
  if (!wire.has_seed()) return InvalidField("sampling.seed", "must be set");
  // The engine counts in int32_t.
  const std::pair<const char*, uint32_t> counts[] = {{"sampling.top_k", wire.top_k()},
                                                     {"top_logprobs", submit.top_logprobs()},
                                                     {"prompt_logprobs", submit.prompt_logprobs()}};
  for (const auto& [field, count] : counts) {
    if (count > INT32_MAX) return InvalidField(field, absl::StrCat(count, " is too large"));
  }
  SamplingParams params;
  if (wire.has_temperature()) params.temperature = wire.temperature();
  if (wire.has_top_p()) params.top_p = wire.top_p();
  if (wire.has_min_p()) params.min_p = wire.min_p();
  if (wire.has_repetition_penalty()) params.repetition_penalty = wire.repetition_penalty();
  params.top_k = static_cast<int32_t>(wire.top_k());
  params.presence_penalty = wire.presence_penalty();
  params.frequency_penalty = wire.frequency_penalty();
  params.seed = wire.seed();
  params.max_tokens = submit.max_tokens();
  params.min_tokens = submit.min_tokens();
  params.ignore_eos = submit.ignore_eos();
  if (submit.has_top_logprobs()) {
    params.num_logprobs = static_cast<int32_t>(submit.top_logprobs());
  }
  if (submit.has_prompt_logprobs()) {
    params.num_prompt_logprobs = static_cast<int32_t>(submit.prompt_logprobs());
  }
  for (const auto& [id, bias] : wire.logit_bias()) {
    // Ids beyond int32_t turn negative, which is refused by name like any other unknown one.
    params.logit_bias.push_back({static_cast<int32_t>(id), bias});
  }
  absl::c_sort(params.logit_bias,
               [](const LogitBias& a, const LogitBias& b) { return a.id < b.id; });
  return params;
}

// The engine's errors begin with the field: "top_p is 2, must be ...". Most are in the message's
// sampling part.
absl::Status NameSamplingField(const absl::Status& status) {
  const absl::string_view message = status.message();
  const size_t space = std::min(message.find(' '), message.size());
  const absl::string_view field = message.substr(0, space);
  std::string path = absl::StrCat("sampling.", field);
  if (field == "num_logprobs") path = "top_logprobs";
  if (field == "num_prompt_logprobs") path = "prompt_logprobs";
  if (field == "max_tokens" || field == "min_tokens" || absl::StartsWith(field, "stop_token_ids")) {
    path = std::string(field);
  }
  return InvalidField(path, absl::StripLeadingAsciiWhitespace(message.substr(space)));
}

absl::Status CheckLengths(const v1::Submit& submit, const EngineInfo& info) {
  if (submit.prompt_ids().empty()) return InvalidField("prompt_ids", "is empty");
  if (submit.max_tokens() == 0) return InvalidField("max_tokens", "must be positive");
  const int64_t total = int64_t{submit.prompt_ids_size()} + submit.max_tokens();
  if (total > info.max_model_len) {
    return InvalidField(
        "max_tokens",
        absl::StrCat(submit.prompt_ids_size(), " prompt tokens and max_tokens ",
                     submit.max_tokens(), " exceed the limit of ", info.max_model_len));
  }
  if (submit.resumed_ids_size() >= static_cast<int64_t>(submit.max_tokens())) {
    return InvalidField("resumed_ids",
                        absl::StrCat(submit.resumed_ids_size(), " ids leave nothing of max_tokens ",
                                     submit.max_tokens()));
  }
  if (submit.request_id().size() > kMaxRequestIdBytes) {
    return InvalidField("request_id", absl::StrCat("longer than ", kMaxRequestIdBytes, " bytes"));
  }
  if (submit.traceparent().size() > kMaxTraceparentBytes) {
    return InvalidField("traceparent",
                        absl::StrCat("longer than ", kMaxTraceparentBytes, " bytes"));
  }
  if (submit.cache_salt().size() > kMaxCacheSaltBytes) {
    return InvalidField("cache_salt", absl::StrCat("longer than ", kMaxCacheSaltBytes, " bytes"));
  }
  if (submit.stop_token_ids_size() > kMaxStopTokenIds) {
    return InvalidField("stop_token_ids", absl::StrCat(submit.stop_token_ids_size(),
                                                       " ids, at most ", kMaxStopTokenIds));
  }
  return absl::OkStatus();
}

v1::SequenceFinishReason ToWireReason(const SequenceEvent& event,
                                      absl::Span<const int32_t> eos_ids) {
  switch (event.finish) {
    case FinishReason::kStop:
      return absl::c_linear_search(eos_ids, event.stop_token_id)
                 ? v1::SEQUENCE_FINISH_REASON_EOS
                 : v1::SEQUENCE_FINISH_REASON_STOP_TOKEN;
    case FinishReason::kLength:
      return v1::SEQUENCE_FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::SEQUENCE_FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
    case FinishReason::kError:
    case FinishReason::kNumeric:
      return v1::SEQUENCE_FINISH_REASON_ERROR;
    case FinishReason::kNone:
      break;
  }
  return v1::SEQUENCE_FINISH_REASON_UNSPECIFIED;
}

void FillFinish(const SequenceEvent& event, absl::Span<const int32_t> eos_ids,
                v1::SequenceFinish* finish) {
  finish->set_reason(ToWireReason(event, eos_ids));
  ToProtoDuration(event.queue_time, finish->mutable_queue_time());
  if (event.finish == FinishReason::kStop) {
    finish->set_stop_token_id(static_cast<uint32_t>(event.stop_token_id));
  } else if (event.finish == FinishReason::kDeadline) {
    *finish->mutable_status() =
        ToProtoStatus(absl::DeadlineExceededError("the request's deadline has passed"));
  } else if (event.finish == FinishReason::kError) {
    *finish->mutable_status() = ToProtoStatus(event.error);
  } else if (event.finish == FinishReason::kNumeric) {
    *finish->mutable_status() = ToProtoStatus(WithReason(event.error, kReasonNumeric));
  }
}

void FillLogprobs(const SampledToken& token, v1::TokenLogprobs* wire) {
  wire->set_logprob(token.logprob);
  for (const TokenLogprob& top : token.top) {
    wire->add_top_ids(static_cast<uint32_t>(top.id));
    wire->add_top_logprobs(top.logprob);
  }
}

}  // namespace

absl::StatusOr<SequenceRequest> ToSequenceRequest(const v1::Submit& submit, const EngineInfo& info,
                                                  absl::Time now) {
  QS_RETURN_IF_ERROR(CheckLengths(submit, info));
  SequenceRequest request;
  QS_ASSIGN_OR_RETURN(request.sampling, ToSamplingParams(submit));
  const int64_t vocab = info.config.vocab_size;
  QS_RETURN_IF_ERROR(CheckIds(submit.prompt_ids(), vocab, "prompt_ids", &request.prompt_ids));
  QS_RETURN_IF_ERROR(CheckIds(submit.resumed_ids(), vocab, "resumed_ids", &request.resumed_ids));
  QS_RETURN_IF_ERROR(
      CheckIds(submit.stop_token_ids(), vocab, "stop_token_ids", &request.sampling.stop_token_ids));
  if (const absl::Status status = Validate(request.sampling, vocab); !status.ok()) {
    return NameSamplingField(status);
  }
  LogSubmit(submit);
  request.accepted_before = submit.attempt() > 0;
  request.request_id = submit.request_id();
  request.sample_index = static_cast<int32_t>(submit.sample_index());
  if (submit.has_time_left()) request.deadline = now + FromProtoDuration(submit.time_left());
  request.cache_salt = submit.cache_salt();
  request.priority = submit.priority();
  request.credit = submit.initial_credit();
  return request;
}

v1::SequenceEvent ToWireEvent(const SequenceEvent& event, uint64_t sequence, uint32_t attempt,
                              int64_t prompt_tokens, absl::Span<const int32_t> eos_ids) {
  v1::SequenceEvent wire;
  wire.set_sequence(sequence);
  wire.set_attempt(attempt);
  wire.set_first_token_index(static_cast<uint32_t>(event.first_token_index));
  for (int32_t id : event.ids) wire.add_token_ids(static_cast<uint32_t>(id));
  for (const SampledToken& token : event.logprobs) FillLogprobs(token, wire.add_logprobs());
  if (!event.prompt_logprobs.empty()) {
    wire.set_first_prompt_index(static_cast<uint32_t>(event.first_prompt_index));
  }
  for (const SampledToken& token : event.prompt_logprobs) {
    v1::TokenLogprobs* scored = wire.add_prompt_logprobs();
    scored->set_token_id(static_cast<uint32_t>(token.id));
    FillLogprobs(token, scored);
  }
  const bool finished = event.finish != FinishReason::kNone;
  if (finished || !event.ids.empty()) {
    wire.set_prompt_tokens(static_cast<uint32_t>(prompt_tokens));
    wire.set_cached_prompt_tokens(static_cast<uint32_t>(event.cached_prompt_tokens));
  }
  if (finished) FillFinish(event, eos_ids, wire.mutable_finish());
  return wire;
}

v1::SequenceEvent RefusalEvent(const v1::Submit& submit, const absl::Status& reason) {
  v1::SequenceEvent wire;
  wire.set_sequence(submit.sequence());
  wire.set_attempt(submit.attempt());
  wire.set_first_token_index(static_cast<uint32_t>(submit.resumed_ids_size()));
  wire.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_ERROR);
  *wire.mutable_finish()->mutable_status() = ToProtoStatus(reason);
  return wire;
}

v1::ServerHello MakeServerHello(const EngineInfo& info) {
  v1::ServerHello hello;
  hello.set_numerics_fingerprint(info.fingerprint);
  hello.set_tp_degree(static_cast<uint32_t>(info.tp));
  hello.set_device(info.isa.empty() ? info.device : absl::StrCat(info.device, " (", info.isa, ")"));
  hello.set_weight_format(info.weight_format);
  hello.set_kv_format(info.kv_format);
  hello.set_vocab_size(static_cast<uint32_t>(info.config.vocab_size));
  v1::GeneratorLimits* limits = hello.mutable_limits();
  limits->set_max_model_len(static_cast<uint32_t>(info.max_model_len));
  limits->set_max_running(static_cast<uint32_t>(info.max_running));
  limits->set_max_session_sequences(static_cast<uint32_t>(info.max_running + info.max_waiting));
  limits->set_block_tokens(static_cast<uint32_t>(info.kv_block_size));
  limits->set_max_stop_token_ids(kMaxStopTokenIds);
  limits->set_max_top_logprobs(kMaxTopLogprobs);
  v1::SamplingParams* defaults = hello.mutable_default_sampling();
  if (info.defaults.temperature) defaults->set_temperature(*info.defaults.temperature);
  if (info.defaults.top_p) defaults->set_top_p(*info.defaults.top_p);
  if (info.defaults.min_p) defaults->set_min_p(*info.defaults.min_p);
  if (info.defaults.top_k) defaults->set_top_k(static_cast<uint32_t>(*info.defaults.top_k));
  if (info.defaults.repetition_penalty) {
    defaults->set_repetition_penalty(*info.defaults.repetition_penalty);
  }
  for (int32_t id : info.defaults.eos_ids) hello.add_eos_token_ids(static_cast<uint32_t>(id));
  return hello;
}

void FillStats(const EngineStats& stats, absl::Duration step_budget, v1::EngineStats* wire) {
  wire->set_step(stats.step);
  ToProtoDuration(stats.step_age, wire->mutable_step_age());
  ToProtoDuration(step_budget, wire->mutable_step_budget());
  wire->set_running(static_cast<uint32_t>(stats.running));
  wire->set_waiting(static_cast<uint32_t>(stats.waiting));
  wire->set_queued_tokens(static_cast<uint64_t>(stats.queued_tokens));
  wire->set_free_blocks(static_cast<uint64_t>(stats.free_blocks));
  wire->set_total_blocks(static_cast<uint64_t>(stats.total_blocks));
  wire->set_prompt_tokens(stats.counters.prompt_tokens);
  wire->set_generated_tokens(stats.counters.generated_tokens);
  for (size_t rank = 0; rank < stats.ranks.size(); ++rank) {
    v1::RankStats* wire_rank = wire->add_ranks();
    wire_rank->set_rank(static_cast<uint32_t>(rank));
    wire_rank->set_step(stats.ranks[rank].step);
    ToProtoDuration(stats.ranks[rank].step_age, wire_rank->mutable_step_age());
  }
}

}  // namespace qwenserve
