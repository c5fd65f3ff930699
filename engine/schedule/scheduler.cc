#include "engine/schedule/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr double kForget = 0.99;  // weight of the steps so far when one more comes

absl::Status CheckIds(absl::string_view field, const std::vector<int32_t>& ids,
                      int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          field, "[", i, "] is ", ids[i], ", the vocabulary has ids 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      // Everybody in the batch has a row in every step.
      max_running_(std::min(options.max_running, options.max_batch_tokens)),
      sharing_(options.prefix_cache && !options.whole_prompts),
      stop_checker_(options.eos_ids),
      allocator_(options.num_blocks),
      cache_(&allocator_) {
  QS_CHECK(options.max_batch_tokens > 0 && options.max_running > 0 && options.max_waiting > 0);
  QS_CHECK(options.max_model_len > 0 && options.vocab_size > 0);
  QS_CHECK(BlocksFor(options.max_model_len) <= options.num_blocks);
}

Scheduler::~Scheduler() = default;

absl::Status Scheduler::Check(const SequenceRequest& request) const {
  if (request.prompt_ids.empty()) return absl::InvalidArgumentError("prompt_ids is empty");
  QS_RETURN_IF_ERROR(Validate(request.sampling, options_.vocab_size));
  const int64_t prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t max_tokens = request.sampling.max_tokens;
  if (prompt > options_.max_model_len || max_tokens > options_.max_model_len - prompt) {
    return absl::InvalidArgumentError(absl::StrCat("prompt_ids (", prompt, ") and max_tokens (",
                                                   max_tokens, ") exceed the model's limit of ",
                                                   options_.max_model_len, " tokens"));
  }
  if (static_cast<int64_t>(request.resumed_ids.size()) > max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("resumed_ids has ", request.resumed_ids.size(),
                                                   " ids, more than max_tokens (", max_tokens,
                                                   ")"));
  }
  if (request.sample_index < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sample_index is ", request.sample_index, ", must be 0 or greater"));
  }
  if (request.credit < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("credit is ", request.credit, ", must be 0 or greater"));
  }
  if (request.priority < -kMaxPriority || request.priority > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat(
        "priority is ", request.priority, ", must be from ", -kMaxPriority, " to ", kMaxPriority));
  }
  if (options_.whole_prompts && prompt > options_.max_batch_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt_ids has ", prompt, " ids; with this KV cache format a prompt is ",
                     "computed in one step, of at most ", options_.max_batch_tokens,
                     " tokens (max_batch_tokens of the generator)"));
  }
  if (options_.whole_prompts && !request.resumed_ids.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "resumed_ids has ", request.resumed_ids.size(),
        " ids; with this KV cache format an answer that was begun elsewhere can't go on here"));
  }
  QS_RETURN_IF_ERROR(CheckIds("prompt_ids", request.prompt_ids, options_.vocab_size));
  return CheckIds("resumed_ids", request.resumed_ids, options_.vocab_size);
}

absl::StatusOr<uint64_t> Scheduler::Add(SequenceRequest request, absl::Time now) {
  QS_RETURN_IF_ERROR(Check(request));
  if (num_waiting() >= options_.max_waiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat(num_waiting(), " sequences are waiting, at most ", options_.max_waiting));
  }
  request.credit = std::min(request.credit, options_.max_model_len);
  const int64_t variant =
      options_.rope_variant == nullptr
          ? 0
          : options_.rope_variant(static_cast<int64_t>(request.prompt_ids.size()));
  const BlockKey root = RootKey(options_.fingerprint, request.cache_salt, variant);
  absl::Time turn = now - request.priority * options_.priority_head_start;
  const bool accepted_before = request.accepted_before || !request.resumed_ids.empty();
  if (accepted_before) turn -= options_.resumed_head_start;
  const uint64_t id = ++last_id_;
  std::vector<int32_t> end_ids = stop_checker_.EndIds(request.sampling);
  auto sequence = std::make_unique<Sequence>(id, std::move(request), std::move(end_ids), now, turn,
                                             root, &allocator_);
  const absl::Status in_time = CheckDeadline(*sequence, now);
  if (!in_time.ok() && !(accepted_before && absl::IsResourceExhausted(in_time))) return in_time;
  next_deadline_ = std::min(next_deadline_, sequence->deadline);
  // Everything was produced before: the next Schedule says so.
  if (sequence->answer_tokens() == sequence->sampling.max_tokens) cancelled_.push_back(id);
  waiting_.insert(sequence.get());
  sequences_.emplace(id, std::move(sequence));
  return id;
}

void Scheduler::Cancel(uint64_t sequence) {
  const auto it = sequences_.find(sequence);
  if (it == sequences_.end() || it->second->cancelled) return;
  it->second->cancelled = true;
  cancelled_.push_back(sequence);
}

void Scheduler::AddCredit(uint64_t sequence, int64_t tokens) {
  const auto it = sequences_.find(sequence);
  if (it == sequences_.end() || tokens <= 0) return;
  // More than a sequence can ever produce means no limit, and must not overflow.
  Sequence& s = *it->second;
  s.credit = std::min(options_.max_model_len, s.credit + std::min(tokens, options_.max_model_len));
}

Scheduler::Ahead Scheduler::AheadOf(const Sequence& s, bool by_length) const {
  const double computed_share = counters_.queried_tokens == 0
                                    ? 1.0
                                    : 1.0 - static_cast<double>(counters_.hit_tokens) /
                                                static_cast<double>(counters_.queried_tokens);
  Ahead ahead;
  ahead.sequences = num_running();
  for (const Sequence* other : running_) {
    if (other->rows_left() == 1 || (by_length && !FewerRowsLeft(other, &s))) continue;
    ahead.rows += static_cast<double>(other->rows_left());
  }
  for (const Sequence* other : waiting_) {
    const bool before = by_length ? FewerRowsLeft(other, &s) : AdmittedBefore()(other, &s);
    if (!before || other->credit == 0) continue;
    ahead.rows += computed_share * static_cast<double>(other->rows_left());
    ++ahead.sequences;
  }
  return ahead;
}

double Scheduler::SecondsBehind(const Ahead& ahead) const {
  const int64_t decoding = std::count_if(running_.begin(), running_.end(),
                                         [](const Sequence* s) { return s->rows_left() == 1; });
  double row_seconds = absl::ToDoubleSeconds(cost_.Prefill(0, 1));
  if (decoding > 0 && row_seconds > 0) {
    const absl::Duration alone = cost_.Decode(decoding);
    const int64_t fit = cost_.RowsWithin(StepTarget(decoding) - alone, 0);
    const int64_t step_rows =
        std::min(std::max<int64_t>(fit, kKvBlockSize), options_.max_batch_tokens);
    row_seconds += absl::ToDoubleSeconds(alone) / static_cast<double>(step_rows);
  }
  const double seconds = ahead.rows * row_seconds;
  const int64_t places = ahead.sequences + 1 - max_running_;
  if (places <= 0 || full_finishes_ <= 0) return seconds;
  return std::max(seconds, static_cast<double>(places) * full_seconds_ / full_finishes_);
}

// Optimistic where nothing is known, so that nobody is refused for nothing: every token ahead is
// taken at the price of a short context, and a place in the batch as they have become free lately.
absl::Status Scheduler::CheckDeadline(const Sequence& s, absl::Time now) const {
  if (s.deadline == absl::InfiniteFuture()) return absl::OkStatus();
  const absl::Duration left = s.deadline - now;
  if (left <= absl::ZeroDuration()) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed ", absl::FormatDuration(-left), " ago"));
  }
  Ahead ahead = AheadOf(s, /*by_length=*/false);
  double seconds = SecondsBehind(ahead);
  // AdmitShort lets it pass all that have more to compute while two places are free.
  if (!options_.whole_prompts && num_running() + 1 < max_running_) {
    const Ahead shorter = AheadOf(s, /*by_length=*/true);
    if (SecondsBehind(shorter) < seconds) {
      ahead = shorter;
      seconds = SecondsBehind(shorter);
    }
  }
  if (absl::Seconds(seconds) <= left) return absl::OkStatus();
  absl::Status refusal = absl::ResourceExhaustedError(absl::StrFormat(
      "the deadline is in %.3f s, and the sequence could start in about %.3f s at the earliest: "
      "%.0f tokens and %d sequences are before it, of which %d run at once",
      absl::ToDoubleSeconds(left), seconds, ahead.rows, ahead.sequences, max_running_));
  refusal.SetPayload(kDeadlineUnreachablePayload, absl::Cord());
  return refusal;
}

int64_t Scheduler::CountLeaving() const {
  return std::count_if(running_.begin(), running_.end(),
                       [](const Sequence* s) { return s->draws_last_token(); });
}

void Scheduler::EndDue(absl::Time now, std::vector<SequenceEvent>* events) {
  for (uint64_t id : std::exchange(cancelled_, {})) {
    const auto it = sequences_.find(id);
    if (it == sequences_.end()) continue;
    Sequence* s = it->second.get();
    Finish(s, s->cancelled ? FinishReason::kCancelled : FinishReason::kLength, absl::OkStatus(),
           &AddEvent(*s, events), now);
  }
  if (now < next_deadline_) return;
  next_deadline_ = absl::InfiniteFuture();
  std::vector<Sequence*> expired;
  for (const auto& [id, s] : sequences_) {
    if (s->deadline <= now) {
      expired.push_back(s.get());
    } else {
      next_deadline_ = std::min(next_deadline_, s->deadline);
    }
  }
  for (Sequence* s : expired) {
    Finish(s, FinishReason::kDeadline, absl::OkStatus(), &AddEvent(*s, events), now);
  }
}

void Scheduler::StopRunning(Sequence* s) {
  const auto it = std::lower_bound(running_.begin(), running_.end(), s, ServedBefore());
  QS_CHECK(it != running_.end() && *it == s);
  running_.erase(it);
  s->running = false;
  waiting_.insert(s);
}

void Scheduler::AddRunning(Sequence* s) {
  s->running = true;
  running_.insert(std::lower_bound(running_.begin(), running_.end(), s, ServedBefore()), s);
}

void Scheduler::Commit(const StepPlan& plan, absl::Span<const SampledToken> tokens,
                       std::vector<SequenceEvent>* events) {
  QS_CHECK(!in_flight_.empty() && plan.step == in_flight_.front().number);
  committed_ = std::move(in_flight_.front());
  in_flight_.pop_front();
  QS_CHECK(plan.sequences.size() == committed_.parts.size());
  size_t next = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    Sequence* s = committed_.parts[i].sequence;
    const PlanSequence& part = plan.sequences[i];
    const int64_t rows = static_cast<int64_t>(part.ids.size());
    const size_t results = part.num_scored + (part.wants_logits ? 1 : 0);
    QS_CHECK(results <= tokens.size() - next);
    const absl::Span<const SampledToken> scored = tokens.subspan(next, part.num_scored);
    next += results;
    if (s == nullptr) {
      counters_.surplus_tokens += part.wants_logits ? 1 : 0;
      continue;
    }
    counters_.prompt_tokens += std::clamp<int64_t>(s->num_prompt - part.first_position, 0, rows);
    if (part.wants_logits) --s->num_unknown;
    if (committed_.parts[i].losses == s->losses) {
      QS_CHECK(s->num_computed == part.first_position);
      s->num_computed += rows;
      Publish(s);
    }
    if (s->cancelled) {
      Finish(s, FinishReason::kCancelled, absl::OkStatus(), &AddEvent(*s, events), last_schedule_);
      continue;
    }
    if (!scored.empty() && !TakeScores(s, scored, events)) continue;
    if (part.wants_logits) Draw(s, tokens[next - 1], events);
  }
  QS_CHECK(next == tokens.size());
}

void Scheduler::Draw(Sequence* s, const SampledToken& token, std::vector<SequenceEvent>* events) {
  const int32_t id = token.id;
  SequenceEvent& event = AddEvent(*s, events);
  if (id < 0 || id >= options_.vocab_size) {
    FailNumeric(s, s->num_tokens(), &event);
    return;
  }
  ++counters_.generated_tokens;
  const StopVerdict verdict = stop_checker_.Check(s->sampling, id, s->answer_tokens());
  if (verdict == StopVerdict::kStopToken) {
    event.stop_token_id = id;
    Finish(s, FinishReason::kStop, absl::OkStatus(), &event, last_schedule_);
    return;
  }
  s->tokens.push_back(id);
  event.ids.push_back(id);
  if (s->sampling.num_logprobs >= 0) event.logprobs.push_back(token);
  if (verdict == StopVerdict::kLastToken) {
    Finish(s, FinishReason::kLength, absl::OkStatus(), &event, last_schedule_);
    return;
  }
  if (--s->credit == 0 && s->running) StopRunning(s);
}

void Scheduler::FailNumeric(Sequence* s, int64_t token, SequenceEvent* event) {
  // Should it be a device that has failed rather than the model, nobody else is to read this.
  for (int32_t block : s->blocks.blocks()) cache_.Forget(block);
  Finish(s, FinishReason::kNumeric,
         absl::InternalError(
             absl::StrCat("the model's logits for token ", token, " are not finite numbers")),
         event, last_schedule_);
}

bool Scheduler::TakeScores(Sequence* s, absl::Span<const SampledToken> tokens,
                           std::vector<SequenceEvent>* events) {
  SequenceEvent& event = AddEvent(*s, events);
  event.first_prompt_index = s->num_scored;
  for (const SampledToken& token : tokens) {
    if (token.id < 0) {
      FailNumeric(s, s->num_scored, &event);
      return false;
    }
    QS_CHECK(token.id == s->tokens[s->num_scored]);
    ++s->num_scored;
    event.prompt_logprobs.push_back(token);
  }
  return true;
}

SequenceEvent& Scheduler::AddEvent(const Sequence& s, std::vector<SequenceEvent>* events) {
  SequenceEvent event;
  event.sequence = s.id;
  event.first_token_index = s.answer_tokens();
  event.cached_prompt_tokens = s.cached_prompt_tokens;
  event.queue_time = s.queue_time;
  events->push_back(std::move(event));
  return events->back();
}

void Scheduler::Finish(Sequence* s, FinishReason reason, absl::Status error, SequenceEvent* event,
                       absl::Time now) {
  event->finish = reason;
  event->error = std::move(error);
  event->queue_time = s->started ? s->queue_time : now - s->accepted;
  if (waiting_.erase(s) == 0) {
    ++finishes_;
    const auto it = std::lower_bound(running_.begin(), running_.end(), s, ServedBefore());
    QS_CHECK(it != running_.end() && *it == s);
    running_.erase(it);
  }
  for (Step& step : in_flight_) {
    for (Part& part : step.parts) {
      if (part.sequence == s) part.sequence = nullptr;
    }
  }
  sequences_.erase(s->id);
}

void Scheduler::FailAll(const absl::Status& error, absl::Time now,
                        std::vector<SequenceEvent>* events) {
  in_flight_.clear();
  cancelled_.clear();
  while (!sequences_.empty()) {
    Sequence* s = sequences_.begin()->second.get();
    Finish(s, FinishReason::kError, error, &AddEvent(*s, events), now);
  }
}

int64_t Scheduler::queued_tokens() const {
  int64_t tokens = 0;
  for (const auto& [id, s] : sequences_) {
    if (s->rows_left() > 1 || s->num_planned == 0) tokens += s->rows_left();
  }
  return tokens;
}

SchedulerCounters Scheduler::counters() const {
  SchedulerCounters counters = counters_;
  counters.evictions = cache_.evictions();
  return counters;
}

void Scheduler::StepTook(absl::Duration duration) {
  cost_.Learn(committed_.shape, duration);
  if (committed_.was_full) {
    full_seconds_ = kForget * full_seconds_ + absl::ToDoubleSeconds(duration);
    full_finishes_ = kForget * full_finishes_ + static_cast<double>(finishes_);
  }
  finishes_ = 0;
}

absl::Duration Scheduler::ExpectedStep() const {
  return in_flight_.empty() ? absl::ZeroDuration() : cost_.Step(in_flight_.front().shape);
}

void Scheduler::CheckIntegrity() const {
  allocator_.CheckIntegrity();
  cache_.CheckIntegrity();
  QS_CHECK(sequences_.size() == running_.size() + waiting_.size());
  QS_CHECK(num_running() - CountLeaving() <= max_running_);
  QS_CHECK(std::is_sorted(running_.begin(), running_.end(), ServedBefore()));
  std::vector<int32_t> references(allocator_.num_blocks(), 0);
  for (const auto& [id, s] : sequences_) {
    s->CheckIntegrity();
    for (int32_t block : s->blocks.blocks()) ++references[block];
  }
  for (int64_t b = 0; b < allocator_.num_blocks(); ++b) {
    QS_CHECK(allocator_.references(static_cast<int32_t>(b)) == references[b]);
  }
  for (const Sequence* s : running_) QS_CHECK(s->running);
  for (const Sequence* s : waiting_) QS_CHECK(!s->running);
  absl::flat_hash_map<const Sequence*, int64_t> unknown;
  for (const Step& step : in_flight_) {
    for (const Part& part : step.parts) unknown[part.sequence] += part.draws ? 1 : 0;
  }
  for (const auto& [id, s] : sequences_) QS_CHECK(s->num_unknown == unknown[s.get()]);
}

}  // namespace qwenserve
