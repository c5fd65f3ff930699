#include "engine/schedule/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/sample/sampler.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

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
    : options_(options), stop_checker_(options.eos_ids), allocator_(options.num_blocks) {
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
  const uint64_t id = ++last_id_;
  std::vector<int32_t> end_ids = stop_checker_.EndIds(request.sampling);
  auto sequence =
      std::make_unique<Sequence>(id, std::move(request), std::move(end_ids), now, &allocator_);
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

StepPlan Scheduler::Schedule(absl::Time now, std::vector<SequenceEvent>* events) {
  QS_CHECK(in_flight_.empty());
  last_schedule_ = now;
  EndDue(now, events);
  StepPlan plan;
  int64_t budget = options_.max_batch_tokens;
  PlanRunning(/*decoding=*/true, now, &plan, &budget);
  PlanRunning(/*decoding=*/false, now, &plan, &budget);
  Admit(now, &plan, &budget);
  if (!plan.sequences.empty()) plan.step = ++last_step_;
  return plan;
}

void Scheduler::PlanRunning(bool decoding, absl::Time now, StepPlan* plan, int64_t* budget) {
  // Whoever has to give way is behind the one that is being planned, so not in the plan yet: a
  // prefill took all its blocks when it was admitted, and decoding sequences are planned first.
  for (size_t i = 0; i < running_.size() && *budget > 0; ++i) {
    Sequence* s = running_[i];
    if (decoding != (s->rows_left() == 1)) continue;
    if (!Grow(s)) break;
    const int64_t rows = std::min(s->rows_left(), *budget);
    AddToPlan(s, rows, now, plan);
    *budget -= rows;
  }
}

void Scheduler::Admit(absl::Time now, StepPlan* plan, int64_t* budget) {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    if (*budget <= 0 || num_running() >= options_.max_running) return;
    Sequence* s = *it;
    if (s->credit == 0) {
      ++it;
      continue;
    }
    const int64_t needed = BlocksFor(s->num_tokens()) - s->blocks.size();
    // Room for everybody's next block: otherwise the newcomer would be thrown out at once.
    const int64_t wanted = needed == 0 ? 0 : needed + num_running();
    if (wanted > allocator_.num_free() && wanted > allocator_.num_free() + ReclaimableFor(s)) {
      return;
    }
    while (!s->blocks.GrowTo(BlocksFor(s->num_tokens()))) QS_CHECK(ReclaimFor(s));
    it = waiting_.erase(it);
    AddRunning(s);
    const int64_t rows = std::min(s->rows_left(), *budget);
    AddToPlan(s, rows, now, plan);
    *budget -= rows;
  }
}

void Scheduler::AddToPlan(Sequence* s, int64_t rows, absl::Time now, StepPlan* plan) {
  if (!s->started) {
    s->started = true;
    s->queue_time = now - s->accepted;
  }
  PlanSequence part;
  part.first_position = s->num_computed;
  part.ids.assign(s->tokens.begin() + s->num_computed, s->tokens.begin() + s->num_computed + rows);
  part.prompt_tokens = s->num_prompt;
  const absl::Span<const int32_t> blocks =
      s->blocks.blocks().subspan(0, BlocksFor(s->num_computed + rows));
  part.blocks.assign(blocks.begin(), blocks.end());
  part.wants_logits = rows == s->rows_left();
  if (part.wants_logits) {
    part.sample = MakeSampleRow(s->sampling, s->sample_index, s->tokens, s->num_prompt, s->end_ids);
  }
  const int64_t first = std::max(s->num_computed, s->num_scored - 1);
  const int64_t last = std::min(s->num_computed + rows, s->num_prompt - 1);
  if (first < last) {
    part.first_scored = static_cast<int32_t>(first - s->num_computed);
    part.num_scored = static_cast<int32_t>(last - first);
    part.score_top = s->sampling.num_prompt_logprobs;
    part.next_id = s->tokens[last];
  }
  plan->sequences.push_back(std::move(part));
  in_flight_.push_back(s);
}

bool Scheduler::Grow(Sequence* s) {
  while (!s->blocks.GrowTo(BlocksFor(s->num_tokens()))) {
    if (ReclaimFor(s)) continue;
    Sequence* last = running_.back();
    StopRunning(last);
    last->DropBlocks();
    ++preemptions_;
    if (last == s) return false;
  }
  return true;
}

bool Scheduler::MayLoseBlocksTo(const Sequence* holder, const Sequence* taker) {
  if (holder == taker || holder->blocks.size() == 0) return false;
  return holder->credit == 0 || AdmittedBefore()(taker, holder);
}

bool Scheduler::ReclaimFor(const Sequence* s) {
  const bool running = std::binary_search(running_.begin(), running_.end(), s, ServedBefore());
  for (auto it = waiting_.rbegin(); it != waiting_.rend(); ++it) {
    Sequence* holder = *it;
    if (holder->blocks.size() == 0) continue;
    if (!running && !MayLoseBlocksTo(holder, s)) continue;
    holder->DropBlocks();
    ++preemptions_;
    return true;
  }
  return false;
}

int64_t Scheduler::ReclaimableFor(const Sequence* s) const {
  int64_t blocks = 0;
  for (const Sequence* holder : waiting_) {
    if (MayLoseBlocksTo(holder, s)) blocks += holder->blocks.size();
  }
  return blocks;
}

void Scheduler::StopRunning(Sequence* s) {
  const auto it = std::lower_bound(running_.begin(), running_.end(), s, ServedBefore());
  QS_CHECK(it != running_.end() && *it == s);
  running_.erase(it);
  s->resumed = true;
  waiting_.insert(s);
}

void Scheduler::AddRunning(Sequence* s) {
  running_.insert(std::lower_bound(running_.begin(), running_.end(), s, ServedBefore()), s);
}

void Scheduler::Commit(const StepPlan& plan, absl::Span<const SampledToken> tokens,
                       std::vector<SequenceEvent>* events) {
  QS_CHECK(plan.step == last_step_ && plan.sequences.size() == in_flight_.size());
  const std::vector<Sequence*> sequences = std::exchange(in_flight_, {});
  size_t next = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence* s = sequences[i];
    const PlanSequence& part = plan.sequences[i];
    const int64_t rows = static_cast<int64_t>(part.ids.size());
    QS_CHECK(s->num_computed == part.first_position);
    prompt_tokens_ += std::clamp<int64_t>(s->num_prompt - s->num_computed, 0, rows);
    const size_t results = part.num_scored + (part.wants_logits ? 1 : 0);
    QS_CHECK(results <= tokens.size() - next);
    const absl::Span<const SampledToken> scored = tokens.subspan(next, part.num_scored);
    next += results;
    if (!scored.empty() && !s->cancelled && !TakeScores(s, scored, events)) continue;
    if (!part.wants_logits) {
      s->num_computed += rows;
      continue;
    }
    const SampledToken& token = tokens[next - 1];
    // Drawn or not, its last token stays to be computed unless a new one follows it.
    if (s->cancelled) continue;
    s->num_computed += rows;
    Draw(s, token, events);
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
  ++generated_tokens_;
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
  if (--s->credit == 0) StopRunning(s);
}

void Scheduler::FailNumeric(Sequence* s, int64_t token, SequenceEvent* event) {
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
  events->push_back(std::move(event));
  return events->back();
}

void Scheduler::Finish(Sequence* s, FinishReason reason, absl::Status error, SequenceEvent* event,
                       absl::Time now) {
  event->finish = reason;
  event->error = std::move(error);
  event->queue_time = s->started ? s->queue_time : now - s->accepted;
  if (waiting_.erase(s) == 0) {
    const auto it = std::lower_bound(running_.begin(), running_.end(), s, ServedBefore());
    QS_CHECK(it != running_.end() && *it == s);
    running_.erase(it);
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
    if (s->rows_left() > 1 || s->num_computed == 0) tokens += s->rows_left();
  }
  return tokens;
}

void Scheduler::CheckIntegrity() const {
  allocator_.CheckIntegrity();
  QS_CHECK(sequences_.size() == running_.size() + waiting_.size());
  QS_CHECK(num_running() <= options_.max_running);
  QS_CHECK(std::is_sorted(running_.begin(), running_.end(), ServedBefore()));
  int64_t held = 0;
  for (const auto& [id, s] : sequences_) {
    s->CheckIntegrity();
    held += s->blocks.size();
  }
  QS_CHECK(held + allocator_.num_free() == allocator_.num_blocks());
}

}  // namespace qwenserve
