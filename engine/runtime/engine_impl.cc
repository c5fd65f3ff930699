#include "engine/runtime/engine_impl.h"

#include <algorithm>
#include <stop_token>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/monotonic_time.h"
#include "engine/base/status_macros.h"
#include "engine/model/rope.h"
#include "engine/runtime/fingerprint.h"
#include "engine/runtime/machine_limits.h"
#include "engine/runtime/placement.h"
#include "kernels/check.h"
#include "spdlog/spdlog.h"

namespace qwenserve {

EngineImpl::EngineImpl(const EngineOptions& options, StepCallback on_step)
    : options_(options), events_(std::move(on_step)) {}

EngineImpl::~EngineImpl() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    state_ = State::kStopping;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::Status EngineImpl::Start(const LoadProgress& progress) {
  thread_ = std::thread([this, &progress] { Run(progress); });
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait(lock, [this] { return state_ != State::kStarting; });
  return start_status_;
}

void EngineImpl::Run(const LoadProgress& progress) {
  absl::Status status = Load(progress);
  if (status.ok()) status = RunOnce();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    start_status_ = status;
    state_ = status.ok() ? State::kServing : State::kStopping;
  }
  wake_.notify_all();
  if (status.ok()) {
    ServeUntilStopped();
    // After a failure callers still ask how the ranks are.
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [this] { return state_ == State::kStopping; });
  }
  // The last callbacks may still call this object, so they come before anything goes.
  events_.Close();
  team_.reset();
}

absl::Status EngineImpl::Load(const LoadProgress& progress) {
  QS_ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options_.model_dir, options_.load_format));
  QS_ASSIGN_OR_RETURN(const Placement placement,
                      ChoosePlacement(options_, *checkpoint_, ReadCpuLimits(), ReadMemoryLimits()));
  for (const std::string& reason : placement.reasons) spdlog::info("{}", reason);
  std::vector<std::shared_ptr<NodeChannel>> nodes;
  if (options_.num_nodes > 1) {
    QS_ASSIGN_OR_RETURN(nodes, options_.join_nodes());
    QS_CHECK(static_cast<int>(nodes.size()) == options_.num_nodes - 1);
  }
  // Beside the loading, which reads the same bytes: they come from the disk once. Stops when the
  // loading fails.
  std::string content_hash;
  std::jthread hashing(
      [&](std::stop_token stop) { content_hash = checkpoint_->HashContent(std::move(stop)); });
  QS_ASSIGN_OR_RETURN(team_, RankTeam::Start(
                                 placement.ranks, options_.rank_mode, options_.rank_binary,
                                 std::move(nodes), *checkpoint_, [this] { Wake(); }, progress));
  const ModelRunner& leader = team_->leader();
  info_.config = checkpoint_->config();
  info_.defaults = checkpoint_->generation_defaults();
  hashing.join();
  info_.fingerprint = NumericsFingerprint(*checkpoint_, content_hash, leader.weight_numerics(),
                                          options_.kv_format, options_.tp);
  if (checkpoint_->is_dummy()) {
    info_.fingerprint = absl::StrCat("dummy-", info_.fingerprint);
    spdlog::warn("the weights are random numbers (load format dummy): answers mean nothing");
  }
  info_.max_model_len = leader.limits().max_model_len;
  info_.max_batch_tokens = placement.ranks.front().limits.max_rows;
  info_.max_running = placement.ranks.front().limits.max_sequences;
  info_.max_waiting = options_.max_waiting;
  info_.kv_block_size = kKvBlockSize;
  info_.tp = options_.tp;
  info_.device = placement.ranks.front().device;
  if (const std::string text = leader.device_description(); !text.empty()) {
    absl::StrAppend(&info_.device, " (", text, ")");
    spdlog::info("device: {}", info_.device);
  }
  if (placement.ranks.front().device == "cpu") info_.isa = placement.ranks.front().isa;
  info_.weight_format = FormatsOf(leader.weights());
  info_.kv_format = KvFormatName(options_.kv_format);
  for (const RankSettings& rank : placement.ranks) info_.num_threads += rank.num_threads;
  info_.weight_bytes = WeightBytes(leader.weights());
  info_.step_weight_bytes = StepWeightBytes(leader.weights());
  info_.kv_bytes_per_token = placement.kv_block_bytes / kKvBlockSize;
  spdlog::info("weights: {}", leader.weight_numerics());

  SchedulerOptions scheduler;
  scheduler.max_batch_tokens = info_.max_batch_tokens;
  scheduler.max_running = info_.max_running;
  scheduler.max_waiting = options_.max_waiting;
  scheduler.max_model_len = leader.limits().max_model_len;
  scheduler.num_blocks = leader.limits().num_blocks;
  scheduler.vocab_size = static_cast<int32_t>(info_.config.vocab_size);
  scheduler.eos_ids = info_.defaults.eos_ids;
  scheduler.prefix_cache = options_.prefix_cache;
  scheduler.fingerprint = info_.fingerprint;
  scheduler.rope_variant = [config = info_.config](int64_t prompt_tokens) {
    return NtkAlpha(config, prompt_tokens);
  };
  scheduler.max_step = options_.max_step;
  scheduler.whole_prompts = !IsInvariant(options_.kv_format);
  scheduler.run_ahead = placement.ranks.front().run_ahead;
  scheduler.reads_last_id = leader.backend().reads_last_id();
  max_under_way_ = scheduler.run_ahead ? 2 : 1;
  if (scheduler.whole_prompts) {
    info_.fingerprint.clear();
    spdlog::warn(
        "with a KV cache of {} a prompt is computed in one step, so it may have {} tokens at most "
        "(max_batch_tokens); there is no prefix cache, answers begun elsewhere are refused, "
        "and no fingerprint promises equal tokens",
        KvFormatName(options_.kv_format), info_.max_batch_tokens);
  }
  if (!leader.invariant()) {
    info_.fingerprint.clear();
    spdlog::warn(
        "a sum's order may depend on what is computed beside it: no fingerprint promises equal "
        "tokens, and answers begun elsewhere are refused");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  scheduler_ = std::make_unique<Scheduler>(scheduler);
  return absl::OkStatus();
}

absl::Status EngineImpl::RunOnce() {
  StepPlan plan;
  PlanSequence part;
  part.ids = {0};
  part.prompt_tokens = 1;
  part.blocks = {0};
  part.wants_logits = true;
  part.sample.temperature = 0;
  plan.sequences.push_back(part);
  QS_ASSIGN_OR_RETURN(const uint64_t ticket, team_->Launch(plan));
  QS_ASSIGN_OR_RETURN(const std::vector<SampledToken> tokens, team_->Collect(ticket));
  if (tokens.size() != 1 || tokens[0].id < 0) {
    return absl::InternalError(absl::StrCat("\"", options_.model_dir,
                                            "\": the first forward pass has no finite logit: the "
                                            "weights are damaged"));
  }
  return absl::OkStatus();
}

void EngineImpl::ServeUntilStopped() {
  while (true) {
    StepPlan plan;
    std::vector<SequenceEvent> ended;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_ = false;
      if (state_ == State::kStopping) break;
      plan = scheduler_->Schedule(MonotonicNow(), &ended);
      last_progress_ = Clock::now();
    }
    const bool planned = !plan.sequences.empty();
    const bool idle = !planned && ended.empty() && under_way_.empty();
    Deliver(last_finished_step_, std::move(ended));
    absl::Status health = team_->Health();
    if (health.ok() && planned) health = Launch(std::move(plan));
    const bool must_collect = planned ? under_way_.size() == max_under_way_ : !under_way_.empty();
    if (health.ok() && must_collect) health = CollectOldest();
    if (!health.ok()) return Fail(health);
    if (!idle) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    const auto has_work = [this] { return changed_ || state_ == State::kStopping; };
    const absl::Time deadline = scheduler_->next_deadline();
    if (deadline == absl::InfiniteFuture()) {
      wake_.wait(lock, has_work);
    } else {
      // Not until a time: std's clocks have no point for it that follows no other clock.
      const absl::Duration left = std::min(deadline - MonotonicNow(), absl::Hours(24));
      wake_.wait_for(lock, absl::ToChronoNanoseconds(left), has_work);
    }
  }
  while (!under_way_.empty() && CollectOldest().ok()) {
  }
  Fail(absl::UnavailableError("the engine is shutting down"));
}

absl::Status EngineImpl::Broken(const absl::Status& error) {
  team_->Abort(error.message());
  return team_->Health();
}

absl::Status EngineImpl::Launch(StepPlan plan) {
  const Clock::time_point began = Clock::now();
  absl::StatusOr<uint64_t> ticket = team_->Launch(plan);
  if (!ticket.ok()) return Broken(ticket.status());
  under_way_.push_back({std::move(plan), *ticket, began});
  return absl::OkStatus();
}

absl::Status EngineImpl::CollectOldest() {
  const UnderWay step = std::move(under_way_.front());
  under_way_.pop_front();
  absl::StatusOr<std::vector<SampledToken>> tokens = team_->Collect(step.ticket);
  if (!tokens.ok()) return Broken(tokens.status());
  StepEvents done;
  done.step = last_finished_step_ = step.plan.step;
  done.rows = step.plan.rows();
  done.batch = static_cast<int64_t>(step.plan.sequences.size());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    last_progress_ = Clock::now();
    // What it shared with the step before is that one's time.
    done.duration = absl::FromChrono(last_progress_ - std::max(step.launched, last_end_));
    last_end_ = last_progress_;
    longest_step_ = std::max(longest_step_, done.duration);
    ++steps_;
    rows_from_pairs_ = team_->leader().sampler().rows_from_pairs();
    rows_gathered_ = team_->leader().sampler().rows_gathered();
    scheduler_->Commit(step.plan, *tokens, &done.sequences);
    scheduler_->StepTook(done.duration);
  }
  events_.Push(std::move(done));
  return absl::OkStatus();
}

void EngineImpl::Fail(const absl::Status& reason) {
  std::vector<SequenceEvent> ended;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    failure_ = reason;
    scheduler_->FailAll(reason, MonotonicNow(), &ended);
    if (state_ != State::kStopping) spdlog::error("engine: {}", std::string(reason.message()));
  }
  Deliver(0, std::move(ended));
}

void EngineImpl::Deliver(uint64_t step, std::vector<SequenceEvent> events) {
  if (events.empty()) return;
  StepEvents all;
  all.step = step;
  all.sequences = std::move(events);
  events_.Push(std::move(all));
}

void EngineImpl::Wake() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    changed_ = true;
  }
  wake_.notify_all();
}

absl::StatusOr<uint64_t> EngineImpl::Submit(SequenceRequest request) {
  absl::StatusOr<uint64_t> handle;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_.ok()) return failure_;
    handle = scheduler_->Add(std::move(request), MonotonicNow());
    changed_ = true;
  }
  wake_.notify_all();
  return handle;
}

void EngineImpl::Cancel(uint64_t sequence) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    scheduler_->Cancel(sequence);
    changed_ = true;
  }
  wake_.notify_all();
}

void EngineImpl::AddCredit(uint64_t sequence, int64_t tokens) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    scheduler_->AddCredit(sequence, tokens);
    changed_ = true;
  }
  wake_.notify_all();
}

EngineStats EngineImpl::Stats() const {
  EngineStats stats;
  stats.ranks = team_->Progress();
  std::lock_guard<std::mutex> lock(mutex_);
  stats.step = steps_;
  stats.running = scheduler_->num_running();
  stats.waiting = scheduler_->num_waiting();
  stats.queued_tokens = scheduler_->queued_tokens();
  stats.free_blocks = scheduler_->free_blocks();
  stats.total_blocks = scheduler_->total_blocks();
  stats.cached_blocks = scheduler_->cached_blocks();
  stats.counters = scheduler_->counters();
  stats.rows_from_pairs = rows_from_pairs_;
  stats.rows_gathered = rows_gathered_;
  const absl::Duration expected = scheduler_->ExpectedStep();
  stats.expected_step = expected == absl::ZeroDuration() ? longest_step_ : expected;
  stats.step_age = StepAge();
  return stats;
}

absl::Duration EngineImpl::StepAge() const {
  // There may be a step without a running sequence: the one that was launched before its last
  // sequence's end was known.
  const absl::Duration under_way = team_->Progress().front().step_age;
  if (scheduler_->num_running() == 0) return under_way;
  return std::max(under_way, absl::FromChrono(Clock::now() - last_progress_));
}

absl::Status EngineImpl::Health() const {
  QS_RETURN_IF_ERROR(team_->Health());
  std::lock_guard<std::mutex> lock(mutex_);
  QS_RETURN_IF_ERROR(failure_);
  if (StepAge() > options_.step_timeout) {
    return absl::UnavailableError(absl::StrCat("step ", steps_ + 1, " has taken longer than ",
                                               absl::FormatDuration(options_.step_timeout)));
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
