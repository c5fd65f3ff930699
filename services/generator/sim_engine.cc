#include "services/generator/sim_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/monotonic_time.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/loader/checkpoint.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

// Raised with every change that may alter a simulated token.
constexpr int kTokensVersion = 1;

absl::Status Check(const SimOptions& sim, const EngineInfo& info) {
  const auto bad = [](absl::string_view what) { return absl::InvalidArgumentError(what); };
  if (!(sim.step_ms >= 0)) return bad("--sim-step-ms must be 0 or more");
  if (!(sim.per_sequence_us >= 0)) return bad("--sim-per-sequence-us must be 0 or more");
  if (!(sim.prefill_rate >= 0)) return bad("--sim-prefill-rate must be 0 or more");
  if (sim.mean_tokens < 0) return bad("--sim-mean-tokens must be 0 or more");
  if (sim.crash_after_tokens < 0) return bad("--sim-crash-after-tokens must be 0 or more");
  if (info.max_model_len < 1 || info.max_batch_tokens < 1 || info.max_running < 1 ||
      info.max_waiting < 1) {
    return bad(
        "--max-model-len, --max-batch-tokens, --max-running and --max-waiting must be 1 or "
        "more");
  }
  if (sim.kv_blocks < BlocksFor(info.max_model_len) || sim.kv_blocks > INT32_MAX) {
    return bad(absl::StrCat("--sim-kv-blocks is ", sim.kv_blocks, ", must be from ",
                            BlocksFor(info.max_model_len), " (one sequence of ", info.max_model_len,
                            " tokens) to ", INT32_MAX));
  }
  return absl::OkStatus();
}

EngineInfo MakeInfo(const Checkpoint& checkpoint, const EngineOptions& engine,
                    const SimOptions& sim, const std::string& model, const Tokenizer& tokenizer) {
  EngineInfo info;
  info.config = checkpoint.config();
  info.defaults = checkpoint.generation_defaults();
  info.fingerprint = sim.fingerprint;
  if (info.fingerprint.empty()) {
    info.fingerprint =
        absl::StrCat("sim-", SimTextHash(absl::StrCat(kTokensVersion, "/", model, "/",
                                                      tokenizer.hash(), "/", sim.mean_tokens)));
  }
  info.max_model_len = engine.max_model_len == 0 ? info.config.max_positions : engine.max_model_len;
  info.max_batch_tokens = engine.max_batch_tokens == 0 ? kGpuBatchTokens : engine.max_batch_tokens;
  info.max_running = std::min(engine.max_running, info.max_batch_tokens);
  info.max_waiting = engine.max_waiting;
  info.kv_block_size = kKvBlockSize;
  info.device = "sim";
  info.weight_format = "none";
  info.kv_format = "none";
  info.num_threads = 1;
  return info;
}

SchedulerOptions MakeSchedulerOptions(const EngineInfo& info, const EngineOptions& engine,
                                      const SimOptions& sim) {
  SchedulerOptions scheduler;
  scheduler.max_batch_tokens = info.max_batch_tokens;
  scheduler.max_running = info.max_running;
  scheduler.max_waiting = info.max_waiting;
  scheduler.max_model_len = info.max_model_len;
  scheduler.num_blocks = sim.kv_blocks;
  scheduler.vocab_size = static_cast<int32_t>(info.config.vocab_size);
  scheduler.eos_ids = info.defaults.eos_ids;
  scheduler.prefix_cache = engine.prefix_cache;
  scheduler.fingerprint = info.fingerprint;
  scheduler.max_step = engine.max_step;
  return scheduler;
}

// `time`: of MonotonicNow(). std's clocks have no end of time.
template <typename Condition>
void WaitUntil(absl::Time time, std::condition_variable& changed,
               std::unique_lock<std::mutex>& lock, const Condition& condition) {
  if (time == absl::InfiniteFuture()) {
    changed.wait(lock, condition);
  } else {
    const absl::Duration left = std::min(time - MonotonicNow(), absl::Hours(24));
    changed.wait_for(lock, absl::ToChronoNanoseconds(left), condition);
  }
}

}  // namespace

void AddSimFlags(Flags& flags, SimOptions* options) {
  flags.Add("sim-step-ms", &options->step_ms,
            "Simulated: milliseconds of a step before what follows; 0 = as fast as it goes");
  flags.Add("sim-per-sequence-us", &options->per_sequence_us,
            "Simulated: microseconds of a step for each sequence in it");
  flags.Add("sim-prefill-rate", &options->prefill_rate,
            "Simulated: prompt tokens per second; 0 = they take no time");
  flags.Add("sim-kv-blocks", &options->kv_blocks, "Simulated: KV cache in blocks of 16 tokens");
  flags.Add("sim-mean-tokens", &options->mean_tokens,
            "Simulated: tokens of an answer on average; 0 = always max_tokens");
  flags.Add(
      "sim-script", &options->script,
      "Simulated: JSON file of answers and faults for prompts (services/generator/README.md)");
  flags.Add(
      "sim-fingerprint", &options->fingerprint,
      "Simulated: numerics fingerprint; default: from model, tokenizer and --sim-mean-tokens");
  flags.Add("sim-crash-after-tokens", &options->crash_after_tokens,
            "Simulated: abort when so many tokens have been drawn, of all sequences; 0 = never");
}

absl::StatusOr<std::unique_ptr<Engine>> SimEngine::Create(
    const EngineOptions& engine, const SimOptions& sim, const std::string& model,
    std::shared_ptr<const Tokenizer> tokenizer, StepCallback on_step) {
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                      Checkpoint::Open(engine.model_dir, LoadFormat::kDummy));
  EngineInfo info = MakeInfo(*checkpoint, engine, sim, model, *tokenizer);
  QS_RETURN_IF_ERROR(Check(sim, info));
  QS_ASSIGN_OR_RETURN(SimVocabulary vocabulary,
                      MakeSimVocabulary(*tokenizer, info.config.vocab_size, info.defaults.eos_ids));
  SimReplicaOptions options;
  options.scheduler = MakeSchedulerOptions(info, engine, sim);
  options.timing.base = absl::Milliseconds(sim.step_ms);
  options.timing.per_sequence = absl::Microseconds(sim.per_sequence_us);
  options.timing.prefill_rate = sim.prefill_rate;
  options.mean_tokens = sim.mean_tokens;
  options.crash_after_tokens = sim.crash_after_tokens;
  if (!sim.script.empty()) {
    QS_ASSIGN_OR_RETURN(options.rules, ReadSimScript(sim.script, *tokenizer));
  }
  spdlog::warn("the engine is simulated: answers mean nothing");
  auto replica =
      std::make_unique<SimReplica>(std::move(options), std::move(vocabulary), std::move(tokenizer));
  return std::unique_ptr<Engine>(
      new SimEngine(std::move(info), engine.step_timeout, std::move(replica), std::move(on_step)));
}

SimEngine::SimEngine(EngineInfo info, absl::Duration step_timeout,
                     std::unique_ptr<SimReplica> replica, StepCallback on_step)
    : info_(std::move(info)),
      step_timeout_(step_timeout),
      events_(std::move(on_step)),
      replica_(std::move(replica)),
      thread_([this] { Run(); }) {}

SimEngine::~SimEngine() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    stop_ = true;
    work_.notify_all();
    step_end_.notify_all();
  }
  thread_.join();
}

void SimEngine::Run() {
  for (;;) {
    const bool worked = RunStep();
    std::unique_lock<std::mutex> lock(mutex_);
    if (!worked) {
      planned_end_ = absl::InfinitePast();
      const absl::Time deadline = replica_->next_deadline();
      WaitUntil(deadline, work_, lock, [this] { return stop_ || changed_; });
    }
    changed_ = false;
    if (stop_) break;
  }
  StepEvents ended;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    replica_->FailAll(absl::UnavailableError("the engine is shutting down"), MonotonicNow(),
                      &ended.sequences);
  }
  Deliver(std::move(ended));
  events_.Close();  // the last callbacks may still call this object
}

bool SimEngine::RunStep() {
  StepEvents ended;
  absl::Time begin;
  std::optional<absl::Duration> duration;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    begin = MonotonicNow();
    duration = replica_->BeginStep(begin, &ended.sequences);
    ended.step = replica_->step();
  }
  const bool any_ended = !ended.sequences.empty();
  Deliver(std::move(ended));
  if (!duration.has_value()) return any_ended;
  StepEvents done;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    // A wake-up that came late is made up for, so that the pace is that of the flags; after a pause
    // of more than a step it begins anew.
    const absl::Time paced = begin - planned_end_ < *duration ? planned_end_ : begin;
    const absl::Time end = planned_end_ = paced + *duration;
    WaitUntil(end, step_end_, lock, [this] { return stop_; });
    if (stop_) return true;
    const absl::Time now = MonotonicNow();
    replica_->EndStep(now, &done.sequences);
    done.step = replica_->step();
    done.duration = now - begin;
    done.rows = replica_->plan().rows();
    done.batch = static_cast<int64_t>(replica_->plan().sequences.size());
  }
  events_.Push(std::move(done));
  return true;
}

void SimEngine::Deliver(StepEvents events) {
  if (!events.sequences.empty()) events_.Push(std::move(events));
}

void SimEngine::Changed() {
  changed_ = true;
  work_.notify_one();
}

absl::StatusOr<uint64_t> SimEngine::Submit(SequenceRequest request) {
  SimReplica::Prepared prepared = replica_->Prepare(request);
  std::unique_lock<std::mutex> lock(mutex_);
  if (stop_) return absl::UnavailableError("the engine is shutting down");
  Changed();
  return replica_->Submit(std::move(request), std::move(prepared), MonotonicNow());
}

void SimEngine::Cancel(uint64_t sequence) {
  std::unique_lock<std::mutex> lock(mutex_);
  replica_->Cancel(sequence);
  Changed();
}

void SimEngine::AddCredit(uint64_t sequence, int64_t tokens) {
  std::unique_lock<std::mutex> lock(mutex_);
  replica_->AddCredit(sequence, tokens);
  Changed();
}

EngineStats SimEngine::Stats() const {
  std::unique_lock<std::mutex> lock(mutex_);
  return replica_->Stats(MonotonicNow());
}

absl::Status SimEngine::Health() const {
  const EngineStats stats = Stats();
  if (stats.step_age > step_timeout_) {
    return absl::UnavailableError(absl::StrCat("step ", stats.step + 1, " has taken longer than ",
                                               absl::FormatDuration(step_timeout_)));
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
