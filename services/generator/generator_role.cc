#include "services/generator/generator_role.h"

#include <cstdio>
#include <utility>

#include "engine/base/monotonic_time.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/tokenizer.h"
#include "services/common/errors/error_details.h"
#include "services/common/model_name.h"
#include "services/common/version.h"
#include "services/generator/load_progress.h"
#include "services/generator/session_reactor.h"
#include "services/generator/submit_conversion.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kBeat = absl::Milliseconds(500);

const char* FamilyName(CheckpointStyle style) {
  switch (style) {
    case CheckpointStyle::kQwen1:
      return "qwen1";
    case CheckpointStyle::kQwen2:
      return "qwen2";
    case CheckpointStyle::kQwen3:
      return "qwen3";
  }
  return "";
}

}  // namespace

GeneratorRole::GeneratorRole(ServerContext& context, std::string model)
    : context_(context), model_(std::move(model)), metrics_(context.metrics(), model_) {}

GeneratorRole::~GeneratorRole() {
  stop_.Stop();
  if (beats_.joinable()) beats_.join();
  context_.metrics().ClearScrapeHooks();
  engine_.reset();  // no step calls the core any more
}

absl::StatusOr<std::unique_ptr<Engine>> GeneratorRole::MakeEngine(
    const GeneratorOptions& options, std::shared_ptr<const Tokenizer> tokenizer) {
  const auto on_step = [this](const StepEvents& events) { core_->OnStep(events, MonotonicNow()); };
  if (options.sim.has_value()) {
    return SimEngine::Create(options.engine, *options.sim, model_, std::move(tokenizer), on_step);
  }
  EngineOptions engine_options = options.engine;
  engine_options.num_nodes = options.nodes.num_nodes;
  if (options.nodes.num_nodes > 1) {
    const auto on_leaving = [this](int node_rank) {
      spdlog::info("node {} was told to stop, and with it the replica", node_rank);
      context_.RequestDrain();
    };
    QS_ASSIGN_OR_RETURN(hub_,
                        NodeHub::Listen(options.nodes.leader, options.nodes.num_nodes, on_leaving));
    std::printf("listening nodes %s\n", hub_->address().c_str());
    std::fflush(stdout);
    engine_options.join_nodes = [hub = hub_.get()] { return hub->WaitForAll(); };
  }
  LoadProgressPrinter progress;
  return Engine::Create(engine_options, on_step,
                        [&progress](int64_t done, int64_t total) { progress.Show(done, total); });
}

absl::StatusOr<std::unique_ptr<ServerRole>> GeneratorRole::Create(const GeneratorOptions& options,
                                                                  ServerContext& context) {
  const std::string& dir = options.engine.model_dir;
  std::unique_ptr<GeneratorRole> role(
      new GeneratorRole(context, ServedModelName(options.served_model_name, dir)));
  // For its hash: gateways refuse a generator whose ids mean something else than the tokenizers'.
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, Tokenizer::Load(dir));
  QS_ASSIGN_OR_RETURN(role->engine_, role->MakeEngine(options, tokenizer));
  const EngineInfo& info = role->engine_->info();
  v1::ServerHello hello = MakeServerHello(info);
  hello.set_instance_id(context.instance_id());
  hello.set_model(role->model_);
  hello.set_tokenizer_hash(tokenizer->hash());
  hello.set_version(std::string(Version()));
  hello.set_family(FamilyName(info.config.style));
  hello.mutable_limits()->set_max_batch_tokens(static_cast<uint32_t>(info.max_batch_tokens));
  hello.mutable_limits()->set_total_blocks(
      static_cast<uint64_t>(role->engine_->Stats().total_blocks));
  SetCacheInfo(context.metrics(), role->model_, info.kv_block_size,
               role->engine_->Stats().total_blocks);
  role->rank_metrics_.emplace(context.metrics(), role->model_, role->engine_->Stats().ranks);
  SetModelInfo(context.metrics(), role->model_, hello.device(), hello.weight_format(),
               hello.kv_format(), info.tp);
  role->core_ = std::make_unique<GeneratorCore>(role->engine_.get(), std::move(hello),
                                                &role->metrics_, context.tracer());
  UseMetricsCompat(options.metrics_compat, context.metrics());
  context.metrics().OnScrape([raw = role.get()] { raw->UpdateMetrics(); });
  spdlog::info("model {} ready: tp {}, weights {}, KV cache {}, context {}, fingerprint {}",
               role->model_, info.tp, info.weight_format, info.kv_format, info.max_model_len,
               info.fingerprint.empty() ? "none" : info.fingerprint);
  return role;
}

grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* GeneratorRole::Session(
    grpc::CallbackServerContext* context) {
  return SessionReactor::Start(core_.get(), &wakes_, context);
}

void GeneratorRole::OnListening(const std::string& address) {
  // Engine::Create has run a forward pass, so this replica works.
  context_.SetServing(model_, true);
  context_.SetReady(true);
  beats_ = std::thread([this] { BeatLoop(); });
}

void GeneratorRole::OnDrain(absl::Duration time_left) { core_->Drain(time_left, MonotonicNow()); }

int64_t GeneratorRole::InFlight() { return static_cast<int64_t>(core_->open_sequences()); }

void GeneratorRole::CloseStreams() {
  core_->EndSessions(
      WithReason(absl::UnavailableError("the generator is shutting down"), kReasonDraining));
}

void GeneratorRole::BeatLoop() {
  while (!stop_.StoppedWithin(kBeat)) {
    core_->Beat(MonotonicNow());
    if (!UpdateHealth()) return;
  }
}

bool GeneratorRole::UpdateHealth() {
  const absl::Status failure = engine_->Health();
  if (!failure.ok()) {
    // The sequences' last events are on their way; a beat is time enough to write them.
    context_.SetServing(model_, false);
    absl::SleepFor(kBeat);
    context_.Fail(failure);
    return false;
  }
  const bool stepping = core_->Health().ok();
  context_.SetServing(model_, stepping);
  context_.SetReady(stepping);
  return true;
}

void GeneratorRole::UpdateMetrics() {
  const EngineStats stats = engine_->Stats();
  metrics_.running.Set(static_cast<double>(stats.running));
  metrics_.waiting.Set(static_cast<double>(stats.waiting));
  metrics_.queued_tokens.Set(static_cast<double>(stats.queued_tokens));
  const int64_t used = stats.total_blocks - stats.free_blocks;
  metrics_.kv_blocks_used.Set(static_cast<double>(used));
  metrics_.kv_blocks_total.Set(static_cast<double>(stats.total_blocks));
  metrics_.kv_usage_ratio.Set(stats.total_blocks > 0 ? static_cast<double>(used) /
                                                           static_cast<double>(stats.total_blocks)
                                                     : 0);
  metrics_.step_age.Set(absl::ToDoubleSeconds(stats.step_age));
  metrics_.sessions.Set(static_cast<double>(core_->open_sessions()));
  RaiseTo(metrics_.steps, static_cast<double>(stats.step));
  metrics_.prefix_cache_blocks.Set(static_cast<double>(stats.cached_blocks));
  const SchedulerCounters& counters = stats.counters;
  RaiseTo(metrics_.prompt_tokens, static_cast<double>(counters.prompt_tokens));
  RaiseTo(metrics_.cached_prompt_tokens, static_cast<double>(counters.cached_prompt_tokens));
  RaiseTo(metrics_.generated_tokens, static_cast<double>(counters.generated_tokens));
  RaiseTo(metrics_.preemptions, static_cast<double>(counters.preemptions));
  RaiseTo(metrics_.surplus_tokens, static_cast<double>(counters.surplus_tokens));
  RaiseTo(metrics_.rows_from_pairs, static_cast<double>(stats.rows_from_pairs));
  RaiseTo(metrics_.rows_gathered, static_cast<double>(stats.rows_gathered));
  RaiseTo(metrics_.prefix_cache_queried_tokens, static_cast<double>(counters.queried_tokens));
  RaiseTo(metrics_.prefix_cache_hit_tokens, static_cast<double>(counters.hit_tokens));
  RaiseTo(metrics_.prefix_cache_evictions, static_cast<double>(counters.evictions));
  rank_metrics_->Set(stats.ranks);
}

}  // namespace qwenserve
