#include "services/generator/sim_replica.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace qwenserve {

SimReplica::SimReplica(SimReplicaOptions options, SimVocabulary vocabulary,
                       std::shared_ptr<const Tokenizer> tokenizer)
    : options_(std::move(options)),
      tokens_(std::move(vocabulary), options_.scheduler.fingerprint, options_.mean_tokens),
      tokenizer_(std::move(tokenizer)),
      scheduler_(options_.scheduler),
      strikes_(options_.rules.size(), 0) {
  QS_CHECK(options_.rules.empty() || tokenizer_ != nullptr);
}

SimReplica::Prepared SimReplica::Prepare(const SequenceRequest& request) const {
  Prepared prepared;
  prepared.state = tokens_.start();
  if (request.sampling.num_prompt_logprobs >= 0) {
    for (const int32_t id : request.prompt_ids) {
      prepared.prompt_states.push_back(prepared.state);
      prepared.state = SimTokens::Extend(prepared.state, {&id, 1});
    }
  } else {
    prepared.state = SimTokens::Extend(prepared.state, request.prompt_ids);
  }
  prepared.state = SimTokens::Extend(prepared.state, request.resumed_ids);
  if (options_.rules.empty()) return prepared;
  std::string prompt;
  for (const int32_t id : request.prompt_ids) absl::StrAppend(&prompt, tokenizer_->TokenBytes(id));
  for (size_t i = 0; i < options_.rules.size() && prepared.rule < 0; ++i) {
    if (absl::StrContains(prompt, options_.rules[i].when)) prepared.rule = static_cast<int>(i);
  }
  return prepared;
}

absl::Status SimReplica::CheckResumed(const SequenceRequest& request, int rule) const {
  if (rule < 0 || !options_.rules[rule].has_answer) return absl::OkStatus();
  const std::vector<int32_t>& answer = options_.rules[rule].answer;
  const size_t common = std::min(answer.size(), request.resumed_ids.size());
  for (size_t i = 0; i < common; ++i) {
    if (request.resumed_ids[i] == answer[i]) continue;
    return absl::InternalError(absl::StrCat("resumed_ids[", i, "] is ", request.resumed_ids[i],
                                            ", token ", i, " of the script's answer is ",
                                            answer[i]));
  }
  return absl::OkStatus();
}

bool SimReplica::Strikes(const Sequence& sequence, SimFault fault, int64_t point) {
  if (sequence.rule < 0) return false;
  const SimRule& rule = options_.rules[sequence.rule];
  if (rule.fault != fault || rule.after != point) return false;
  if (rule.times >= 0 && strikes_[sequence.rule] >= rule.times) return false;
  ++strikes_[sequence.rule];
  return true;
}

absl::StatusOr<uint64_t> SimReplica::Submit(SequenceRequest request, Prepared prepared,
                                            absl::Time now) {
  Sequence sequence;
  sequence.state = prepared.state;
  sequence.answer_tokens = static_cast<int64_t>(request.resumed_ids.size());
  sequence.rule = prepared.rule;
  sequence.ignore_eos = request.sampling.ignore_eos;
  sequence.prompt_states = std::move(prepared.prompt_states);
  if (Strikes(sequence, SimFault::kRefuse, -1)) {
    return absl::ResourceExhaustedError("the script refuses this prompt");
  }
  QS_RETURN_IF_ERROR(CheckResumed(request, prepared.rule));
  QS_ASSIGN_OR_RETURN(const uint64_t handle, scheduler_.Add(std::move(request), now));
  sequences_.emplace(handle, std::move(sequence));
  return handle;
}

absl::Duration SimReplica::TimeOf(const PlanSequence& part) {
  Sequence& sequence = sequences_.at(part.sequence);
  absl::Duration time = options_.timing.per_sequence;
  const bool decodes = part.ids.size() == 1 && part.first_position >= part.prompt_tokens;
  if (!decodes && options_.timing.prefill_rate > 0) {
    time += absl::Seconds(static_cast<double>(part.ids.size()) / options_.timing.prefill_rate);
  }
  if (sequence.rule < 0) return time;
  const SimRule& rule = options_.rules[sequence.rule];
  time += rule.step_delay;
  if (!std::exchange(sequence.started, true)) {
    time += rule.delay;
    if (Strikes(sequence, SimFault::kCrash, -1)) options_.crash();
    if (Strikes(sequence, SimFault::kHang, -1)) return absl::InfiniteDuration();
  }
  if (part.wants_logits && Strikes(sequence, SimFault::kHang, sequence.answer_tokens)) {
    return absl::InfiniteDuration();
  }
  return time;
}

std::optional<absl::Duration> SimReplica::BeginStep(absl::Time now,
                                                    std::vector<SequenceEvent>* events) {
  const size_t first = events->size();
  StepPlan plan = scheduler_.Schedule(now, events);
  Forget(*events, first);
  last_progress_ = now;
  if (plan.sequences.empty()) return std::nullopt;
  plan_ = std::move(plan);
  began_ = now;
  absl::Duration time = options_.timing.base;
  for (const PlanSequence& part : plan_.sequences) time += TimeOf(part);
  return time;
}

void SimReplica::Score(const PlanSequence& part, const Sequence& sequence,
                       std::vector<SampledToken>* tokens) const {
  for (int32_t i = 0; i < part.num_scored; ++i) {
    const size_t next = static_cast<size_t>(part.first_scored) + i + 1;
    const int32_t id = next < part.ids.size() ? part.ids[next] : part.next_id;
    const size_t position = static_cast<size_t>(part.first_position) + next;
    tokens->push_back(tokens_.Score(sequence.prompt_states[position], id, part.score_top));
  }
}

SampledToken SimReplica::Draw(const PlanSequence& part, Sequence* sequence) {
  const int64_t index = sequence->answer_tokens;
  ++drawn_;
  if (drawn_ == options_.crash_after_tokens) options_.crash();
  if (Strikes(*sequence, SimFault::kCrash, index)) options_.crash();
  // Without a place of its own such a fault comes with the first token.
  if (Strikes(*sequence, SimFault::kNumeric, index) || Strikes(*sequence, SimFault::kNumeric, -1)) {
    return SampledToken();
  }
  SimEnd end = sequence->ignore_eos ? SimEnd::kNever : SimEnd::kByChance;
  SampledToken token;
  if (sequence->rule >= 0 && end != SimEnd::kNever) {
    const SimRule& rule = options_.rules[sequence->rule];
    const int64_t length = rule.has_answer ? static_cast<int64_t>(rule.answer.size()) : rule.length;
    if (length >= 0) end = index < length ? SimEnd::kNever : SimEnd::kNow;
  }
  const std::vector<int32_t>* answer =
      sequence->rule < 0 ? nullptr : &options_.rules[sequence->rule].answer;
  if (answer != nullptr && index < static_cast<int64_t>(answer->size())) {
    token = tokens_.Score(sequence->state, (*answer)[index], part.sample.num_logprobs);
  } else {
    token = tokens_.Draw(sequence->state, index, part.sample, end);
  }
  sequence->state = SimTokens::Extend(sequence->state, {&token.id, 1});
  ++sequence->answer_tokens;
  return token;
}

void SimReplica::EndStep(absl::Time now, std::vector<SequenceEvent>* events) {
  std::vector<SampledToken> tokens;
  for (const PlanSequence& part : plan_.sequences) {
    Sequence& sequence = sequences_.at(part.sequence);
    Score(part, sequence, &tokens);
    if (part.wants_logits) tokens.push_back(Draw(part, &sequence));
  }
  const size_t first = events->size();
  scheduler_.Commit(plan_, tokens, events);
  const absl::Duration took = now - began_;
  scheduler_.StepTook(took);
  Forget(*events, first);
  ++steps_;
  longest_step_ = std::max(longest_step_, took);
  last_progress_ = now;
}

void SimReplica::Forget(const std::vector<SequenceEvent>& events, size_t first) {
  for (size_t i = first; i < events.size(); ++i) {
    if (events[i].finish != FinishReason::kNone) sequences_.erase(events[i].sequence);
  }
}

void SimReplica::FailAll(const absl::Status& error, absl::Time now,
                         std::vector<SequenceEvent>* events) {
  scheduler_.FailAll(error, now, events);
  sequences_.clear();
}

EngineStats SimReplica::Stats(absl::Time now) const {
  EngineStats stats;
  stats.step = steps_;
  stats.running = scheduler_.num_running();
  stats.waiting = scheduler_.num_waiting();
  stats.queued_tokens = scheduler_.queued_tokens();
  stats.free_blocks = scheduler_.free_blocks();
  stats.total_blocks = scheduler_.total_blocks();
  stats.cached_blocks = scheduler_.cached_blocks();
  stats.counters = scheduler_.counters();
  const absl::Duration expected = scheduler_.ExpectedStep();
  stats.expected_step = expected == absl::ZeroDuration() ? longest_step_ : expected;
  if (stats.running > 0) stats.step_age = now - last_progress_;
  RankProgress& rank = stats.ranks.emplace_back();
  rank.step = stats.step;
  rank.step_age = stats.step_age;
  return stats;
}

}  // namespace qwenserve
