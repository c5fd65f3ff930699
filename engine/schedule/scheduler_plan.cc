// What the scheduler puts into a step. scheduler.cc has what comes before and after one.
#include <algorithm>
#include <utility>

#include "engine/cache/kv_cache.h"
#include "engine/sample/sampler.h"
#include "engine/schedule/scheduler.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// After so many steps with both decoding and prefill, one without prefill measures anew what
// decoding alone takes.
constexpr int64_t kMeasureInterval = 64;

int64_t CommonPrefix(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
  const size_t length = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + length, b.begin()).first - a.begin();
}

// Leading blocks whose contents may come from elsewhere: the last token is always computed, for its
// logits.
int64_t ShareableBlocks(const Sequence& s) { return (s.num_tokens() - 1) / kKvBlockSize; }

}  // namespace

StepPlan Scheduler::Schedule(absl::Time now, std::vector<SequenceEvent>* events) {
  QS_CHECK(in_flight_.size() <= (options_.run_ahead ? 1 : 0));
  last_schedule_ = now;
  EndDue(now, events);
  StepPlan plan;
  if (MustKnowDraws()) return plan;
  num_leaving_ = CountLeaving();
  planned_ = Step();
  Budget budget;
  budget.rows = options_.max_batch_tokens;
  if (std::exchange(prompt_first_, false)) Admit(now, &plan, &budget);
  if (plan.sequences.empty()) {
    PlanDecoding(now, &plan, &budget);
    LimitPrefill(&budget);
    const bool shortest_first = shortest_first_ && !options_.whole_prompts;
    if (shortest_first) AdmitShort(now, &plan, &budget);
    PlanPrefill(shortest_first, now, &plan, &budget);
    Admit(now, &plan, &budget);
  }
  if (plan.sequences.empty()) return plan;
  planned_.was_full = num_staying() == max_running_;
  plan.step = ++last_step_;
  const StepShape& shape = planned_.shape;
  if (shape.prefill_rows > 0) shortest_first_ = !shortest_first_;
  if (shape.decode_rows > 0) mixed_steps_ = shape.prefill_rows > 0 ? mixed_steps_ + 1 : 0;
  planned_.number = plan.step;
  in_flight_.push_back(std::move(planned_));
  return plan;
}

bool Scheduler::MustKnowDraws() const {
  if (options_.reads_last_id || in_flight_.empty()) return false;
  return std::any_of(running_.begin(), running_.end(), [](const Sequence* s) {
    return s->num_unknown > 0 && s->goes_on() && ReadsContext(s->sampling);
  });
}

void Scheduler::PlanDecoding(absl::Time now, StepPlan* plan, Budget* budget) {
  // Whoever has to give way is behind the one that is being planned, so not in the plan yet.
  for (size_t i = 0; i < running_.size() && budget->rows > 0; ++i) {
    Sequence* s = running_[i];
    if (s->rows_left() > 1 || !s->goes_on()) continue;
    if (!Grow(s)) break;
    AddToPlan(s, 1, now, plan, budget);
  }
}

void Scheduler::PlanPrefill(bool shortest_first, absl::Time now, StepPlan* plan, Budget* budget) {
  std::vector<Sequence*> prefills;
  for (Sequence* s : running_) {
    if (s->rows_left() > 1 && s->last_step <= last_step_) prefills.push_back(s);
  }
  if (shortest_first) std::stable_sort(prefills.begin(), prefills.end(), FewerRowsLeft);
  for (Sequence* s : prefills) {
    // It took the blocks of all its tokens when it was admitted.
    QS_CHECK(s->blocks.size() >= BlocksFor(s->num_tokens()));
    const int64_t rows = RowsFor(*s, *budget);
    if (rows == 0) break;
    AddToPlan(s, rows, now, plan, budget);
  }
}

absl::Duration Scheduler::StepTarget(int64_t decode_rows) const {
  return options_.max_step > absl::ZeroDuration() ? options_.max_step
                                                  : 2 * cost_.Decode(decode_rows);
}

void Scheduler::LimitPrefill(Budget* budget) {
  const int64_t decoding = planned_.shape.decode_rows;
  if (options_.whole_prompts || !cost_.has_learned()) return;
  if (decoding == 0 && options_.max_step == absl::ZeroDuration()) return;
  budget->timed = true;
  if (mixed_steps_ > 0 && decoding > 0 &&
      (mixed_steps_ >= kMeasureInterval || !cost_.HasDecode(decoding))) {
    return;
  }
  budget->time = StepTarget(decoding) - cost_.Decode(decoding);
  budget->least = kKvBlockSize;
}

int64_t Scheduler::RowsFor(const Sequence& s, const Budget& budget) const {
  const int64_t left = s.rows_left();
  if (left == 1) return std::min<int64_t>(1, budget.rows);
  if (options_.whole_prompts) {
    const int64_t rows = std::max<int64_t>(1, s.num_prompt - s.num_planned);
    return rows <= budget.rows ? rows : 0;
  }
  int64_t rows = std::min(left, budget.rows);
  if (budget.timed) {
    rows = std::min(rows, std::max(budget.least, cost_.RowsWithin(budget.time, s.num_planned)));
  }
  if (rows == left) return rows;
  // Whole blocks, which others can share at once.
  const int64_t end = (s.num_planned + rows) / kKvBlockSize * kKvBlockSize;
  return end - s.num_planned >= std::max<int64_t>(budget.least, 1) ? end - s.num_planned : rows;
}

void Scheduler::Admit(absl::Time now, StepPlan* plan, Budget* budget) {
  if (waiting_.empty()) return;
  Leaders leaders = FindLeaders();
  bool prefill_is_over = false;
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    if (budget->rows <= 0 || num_staying() >= max_running_) return;
    Sequence* s = *it++;
    // Those that decode are not held up by one whose prefill has to wait for the next step.
    const bool decodes = s->started && s->rows_left() == 1;
    if (s->credit == 0 || (prefill_is_over && !decodes)) continue;
    // It lost its blocks while a token of it is being drawn, which it has to begin with.
    if (s->num_unknown > 0) return;
    switch (TryAdmit(s, &leaders, /*spare=*/0, now, plan, budget)) {
      case Admission::kAdmitted:
      case Admission::kFollows:
        break;
      case Admission::kNoRows:
        prompt_first_ = options_.whole_prompts;
        prefill_is_over = true;
        break;
      case Admission::kNoRoom:
        return;
    }
  }
}

void Scheduler::AdmitShort(absl::Time now, StepPlan* plan, Budget* budget) {
  int64_t rows_left = 0;  // of the shortest prefill under way
  for (const Sequence* s : running_) {
    if (s->rows_left() == 1) continue;
    if (rows_left == 0 || s->rows_left() < rows_left) rows_left = s->rows_left();
  }
  if (rows_left == 0) return;
  const Sequence* next = nullptr;  // whose turn it is
  std::vector<Sequence*> shorter;
  for (Sequence* s : waiting_) {
    if (s->credit == 0 || StillFollows(*s)) continue;
    if (next == nullptr) next = s;
    if (s->num_unknown == 0 && s->rows_left() < rows_left) shorter.push_back(s);
  }
  std::stable_sort(shorter.begin(), shorter.end(), FewerRowsLeft);
  Leaders leaders = shorter.empty() ? Leaders() : FindLeaders();
  for (Sequence* s : shorter) {
    // A place and blocks stay for the one that is overtaken.
    const bool overtakes = s != next && !next->running;
    if (budget->rows <= 0 || num_staying() + (overtakes ? 1 : 0) >= max_running_) return;
    const int64_t spare = overtakes ? BlocksFor(next->num_tokens()) - next->blocks.size() : 0;
    const Admission admission = TryAdmit(s, &leaders, spare, now, plan, budget);
    if (admission == Admission::kNoRows || admission == Admission::kNoRoom) return;
  }
}

Scheduler::Admission Scheduler::TryAdmit(Sequence* s, Leaders* leaders, int64_t spare,
                                         absl::Time now, StepPlan* plan, Budget* budget) {
  if (StillFollows(*s)) return Admission::kFollows;
  const bool fresh = s->blocks.size() == 0;
  if (fresh) ShareCached(s);
  Admission result = Admission::kAdmitted;
  const int64_t rows = RowsFor(*s, *budget);
  if (fresh && Follow(s, *leaders)) {
    result = Admission::kFollows;
  } else if (rows == 0) {
    result = Admission::kNoRows;
  } else if (!TakeRoom(s, spare)) {
    result = Admission::kNoRoom;
  }
  if (result != Admission::kAdmitted) {
    if (fresh) s->DropBlocks();
    return result;
  }
  if (fresh) CountLookup(s);
  waiting_.erase(s);
  AddRunning(s);
  AddLeader(s, leaders);
  AddToPlan(s, rows, now, plan, budget);
  return result;
}

bool Scheduler::TakeRoom(Sequence* s, int64_t spare) {
  const int64_t needed = BlocksFor(s->num_tokens()) - s->blocks.size();
  // Room for everybody's next block: otherwise the newcomer would be thrown out at once.
  const int64_t wanted = needed == 0 ? 0 : needed + spare + num_running();
  if (wanted > allocator_.num_free() && wanted > allocator_.num_free() + ReclaimableFor(s)) {
    return false;
  }
  while (!s->blocks.GrowTo(BlocksFor(s->num_tokens()))) QS_CHECK(ReclaimFor(s));
  return true;
}

void Scheduler::AddToPlan(Sequence* s, int64_t rows, absl::Time now, StepPlan* plan,
                          Budget* budget) {
  if (!s->started) {
    s->started = true;
    s->queue_time = now - s->accepted;
  }
  s->last_step = last_step_ + 1;
  budget->rows -= rows;
  const int64_t begin = s->num_planned;
  if (s->rows_left() == 1) {
    ++planned_.shape.decode_rows;
  } else {
    budget->time -= cost_.Prefill(begin, rows);
    budget->least = std::max<int64_t>(0, budget->least - rows);
    planned_.shape.prefill_rows += rows;
    planned_.shape.prefill_positions += rows * begin + rows * (rows - 1) / 2;
  }
  PlanSequence part;
  part.sequence = s->id;
  part.first_position = begin;
  if (s->num_unknown > 0) {
    QS_CHECK(rows == 1 && begin == s->num_tokens() && in_flight_.size() == 1);
    part.ids.push_back(0);
    part.sampled_by_row = s->draw_row;
  } else {
    part.ids.assign(s->tokens.begin() + begin, s->tokens.begin() + begin + rows);
  }
  part.prompt_tokens = s->num_prompt;
  const absl::Span<const int32_t> blocks = s->blocks.blocks().subspan(0, BlocksFor(begin + rows));
  part.blocks.assign(blocks.begin(), blocks.end());
  part.wants_logits = rows == s->rows_left();
  if (part.wants_logits) {
    part.sample = MakeSampleRow(s->sampling, s->sample_index, s->tokens, s->num_prompt, s->end_ids,
                                s->num_unknown);
    s->draw_row = planned_.draws++;
  }
  PlanScores(s, rows, &part);
  planned_.parts.push_back({s, s->losses, part.wants_logits});
  s->num_planned += rows;
  s->num_unknown += part.wants_logits ? 1 : 0;
  plan->sequences.push_back(std::move(part));
}

void Scheduler::PlanScores(Sequence* s, int64_t rows, PlanSequence* part) {
  const int64_t first = std::max(s->num_planned, s->scores_planned - 1);
  const int64_t last = std::min(s->num_planned + rows, s->num_prompt - 1);
  if (first >= last) return;
  part->first_scored = static_cast<int32_t>(first - s->num_planned);
  part->num_scored = static_cast<int32_t>(last - first);
  part->score_top = s->sampling.num_prompt_logprobs;
  part->next_id = s->tokens[last];
  s->scores_planned = last + 1;
}

void Scheduler::ShareCached(Sequence* s) const {
  if (!sharing_ || s->needs_prompt_rows()) return;
  for (int64_t b = 0; b < ShareableBlocks(*s); ++b) {
    const int32_t block = cache_.Find(s->keys.Get(b, s->tokens));
    if (block < 0) break;
    s->blocks.Share(block);
  }
  s->published = s->blocks.size();
  s->num_computed = s->num_planned = s->published * kKvBlockSize;
}

void Scheduler::Publish(Sequence* s) {
  if (!sharing_) return;
  for (; s->published < s->num_computed / kKvBlockSize; ++s->published) {
    cache_.Publish(s->keys.Get(s->published, s->tokens), s->blocks.blocks()[s->published]);
  }
}

void Scheduler::CountLookup(Sequence* s) {
  if (!sharing_ || s->needs_prompt_rows()) return;
  counters_.queried_tokens += static_cast<uint64_t>(s->num_tokens());
  counters_.hit_tokens += static_cast<uint64_t>(s->num_computed);
  if (s->started) return;
  s->cached_prompt_tokens = std::min(s->num_computed, s->num_prompt);
  counters_.cached_prompt_tokens += static_cast<uint64_t>(s->cached_prompt_tokens);
}

Scheduler::Leaders Scheduler::FindLeaders() const {
  Leaders leaders;
  for (Sequence* s : running_) AddLeader(s, &leaders);
  return leaders;
}

void Scheduler::AddLeader(Sequence* s, Leaders* leaders) const {
  if (!sharing_) return;
  const int64_t block = s->num_computed / kKvBlockSize;
  if ((block + 1) * kKvBlockSize <= s->num_tokens()) {
    leaders->emplace(s->keys.Get(block, s->tokens), s);
  }
}

bool Scheduler::Follow(Sequence* s, const Leaders& leaders) const {
  const int64_t block = s->blocks.size();
  if (!sharing_ || s->needs_prompt_rows() || block >= ShareableBlocks(*s)) return false;
  const auto it = leaders.find(s->keys.Get(block, s->tokens));
  // Behind somebody who is served later it would lose its own turn.
  if (it == leaders.end() || !ServedBefore()(it->second, s)) return false;
  s->leader = it->second->id;
  s->leader_tokens =
      std::min(CommonPrefix(s->tokens, it->second->tokens) / kKvBlockSize, ShareableBlocks(*s)) *
      kKvBlockSize;
  return true;
}

bool Scheduler::StillFollows(const Sequence& s) const {
  const auto it = sequences_.find(s.leader);
  return it != sequences_.end() && it->second->running &&
         it->second->num_computed < s.leader_tokens;
}

bool Scheduler::Grow(Sequence* s) {
  while (!s->blocks.GrowTo(BlocksFor(s->num_tokens() + s->num_unknown))) {
    if (ReclaimFor(s)) continue;
    Sequence* last = running_.back();
    num_leaving_ -= last->draws_last_token() ? 1 : 0;
    StopRunning(last);
    last->DropBlocks();
    ++counters_.preemptions;
    if (last == s) return false;
  }
  return true;
}

bool Scheduler::MayLoseBlocksTo(const Sequence* holder, const Sequence* taker) {
  if (holder == taker || holder->blocks.size() == 0) return false;
  return holder->credit == 0 || AdmittedBefore()(taker, holder);
}

bool Scheduler::ReclaimFor(const Sequence* s) {
  for (auto it = waiting_.rbegin(); it != waiting_.rend(); ++it) {
    Sequence* holder = *it;
    if (holder->blocks.size() == 0) continue;
    if (!s->running && !MayLoseBlocksTo(holder, s)) continue;
    holder->DropBlocks();
    ++counters_.preemptions;
    return true;
  }
  return false;
}

int64_t Scheduler::ReclaimableFor(const Sequence* s) const {
  // A shared block is free only when all its holders have let it go.
  absl::flat_hash_map<int32_t, int32_t> holders;
  int64_t blocks = 0;
  for (const Sequence* holder : waiting_) {
    if (!MayLoseBlocksTo(holder, s)) continue;
    for (int32_t block : holder->blocks.blocks()) {
      if (++holders[block] == allocator_.references(block)) ++blocks;
    }
  }
  return blocks;
}

}  // namespace qwenserve
