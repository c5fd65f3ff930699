#include "services/generator/generator_metrics.h"

#include <algorithm>

#include "services/common/metrics/metric_builders.h"

namespace qwenserve {
namespace {

constexpr char kFinishedName[] = "qwenserve_sequences_finished_total";
constexpr char kFinishedHelp[] = "Sequences that ended, by reason";
constexpr char kSampledRowsName[] = "qwenserve_sampled_rows_total";
constexpr char kSampledRowsHelp[] = "Rows sampled by several ranks, by what they sent rank 0";

}  // namespace

void SetModelInfo(Metrics& metrics, const std::string& model, const std::string& device,
                  const std::string& weight_format, const std::string& kv_format, int tp) {
  AddGauge(metrics, "qwenserve_model_info", "Always 1; the labels tell how the model is held",
           {{"model", model},
            {"device", device},
            {"weights", weight_format},
            {"kv", kv_format},
            {"tp", std::to_string(tp)}})
      .Set(1);
}

GeneratorMetrics::GeneratorMetrics(Metrics& metrics, const std::string& model)
    : running(AddGauge(metrics, "qwenserve_sequences_running", "Sequences in the batch",
                       {{"model", model}})),
      waiting(AddGauge(metrics, "qwenserve_sequences_waiting",
                       "Sequences accepted, not in the batch", {{"model", model}})),
      queued_tokens(AddGauge(metrics, "qwenserve_queued_prompt_tokens",
                             "Prompt tokens still to be computed", {{"model", model}})),
      kv_blocks_used(AddGauge(metrics, "qwenserve_kv_blocks_used", "KV cache blocks in use",
                              {{"model", model}})),
      kv_blocks_total(
          AddGauge(metrics, "qwenserve_kv_blocks", "KV cache blocks", {{"model", model}})),
      kv_usage_ratio(AddGauge(metrics, "qwenserve_kv_cache_usage_ratio",
                              "Part of the KV cache in use, 0 to 1", {{"model", model}})),
      prefix_cache_blocks(AddGauge(metrics, "qwenserve_prefix_cache_blocks",
                                   "KV cache blocks that later prompts can reuse",
                                   {{"model", model}})),
      step_age(AddGauge(metrics, "qwenserve_step_age_seconds",
                        "Time since the engine's last sign of life while it works",
                        {{"model", model}})),
      sessions(AddGauge(metrics, "qwenserve_generator_sessions", "Connected gateways",
                        {{"model", model}})),
      steps(
          AddCounter(metrics, "qwenserve_engine_steps_total", "Engine steps", {{"model", model}})),
      prompt_tokens(AddCounter(metrics, "qwenserve_prompt_tokens_total", "Prompt tokens computed",
                               {{"model", model}})),
      cached_prompt_tokens(AddCounter(metrics, "qwenserve_cached_prompt_tokens_total",
                                      "Prompt tokens taken from the cache", {{"model", model}})),
      generated_tokens(AddCounter(metrics, "qwenserve_generated_tokens_total", "Tokens generated",
                                  {{"model", model}})),
      preemptions(AddCounter(metrics, "qwenserve_preemptions_total",
                             "Sequences put back for want of KV blocks", {{"model", model}})),
      surplus_tokens(AddCounter(metrics, "qwenserve_surplus_tokens_total",
                                "Tokens drawn for sequences that had ended meanwhile",
                                {{"model", model}})),
      rows_from_pairs(AddCounter(metrics, kSampledRowsName, kSampledRowsHelp,
                                 {{"model", model}, {"way", "pairs"}})),
      rows_gathered(AddCounter(metrics, kSampledRowsName, kSampledRowsHelp,
                               {{"model", model}, {"way", "gathered"}})),
      prefix_cache_queried_tokens(AddCounter(
          metrics, "qwenserve_prefix_cache_queried_tokens_total",
          "Tokens that admitted sequences asked the prefix cache for", {{"model", model}})),
      prefix_cache_hit_tokens(AddCounter(metrics, "qwenserve_prefix_cache_hit_tokens_total",
                                         "Those of them that it had", {{"model", model}})),
      prefix_cache_evictions(AddCounter(metrics, "qwenserve_prefix_cache_evictions_total",
                                        "Blocks of the prefix cache whose memory was needed",
                                        {{"model", model}})),
      finished_stop(AddCounter(metrics, kFinishedName, kFinishedHelp,
                               {{"model", model}, {"reason", "stop"}})),
      finished_length(AddCounter(metrics, kFinishedName, kFinishedHelp,
                                 {{"model", model}, {"reason", "length"}})),
      finished_cancelled(AddCounter(metrics, kFinishedName, kFinishedHelp,
                                    {{"model", model}, {"reason", "cancelled"}})),
      finished_deadline(AddCounter(metrics, kFinishedName, kFinishedHelp,
                                   {{"model", model}, {"reason", "deadline"}})),
      finished_error(AddCounter(metrics, kFinishedName, kFinishedHelp,
                                {{"model", model}, {"reason", "error"}})),
      rejected(AddCounter(metrics, "qwenserve_sequences_rejected_total", "Submits refused",
                          {{"model", model}})),
      step_duration(AddHistogram(metrics, "qwenserve_step_duration_seconds", "Length of a step",
                                 StepSeconds(), {{"model", model}})),
      step_tokens(AddHistogram(metrics, "qwenserve_step_tokens",
                               "Tokens that a step computes, of prompts and answers", BatchCounts(),
                               {{"model", model}})),
      step_sequences(AddHistogram(metrics, "qwenserve_step_sequences",
                                  "Sequences that a step works on", BatchCounts(),
                                  {{"model", model}})),
      queue_duration(AddHistogram(metrics, "qwenserve_queue_duration_seconds",
                                  "From submit to the first step", FirstTokenSeconds(),
                                  {{"model", model}})),
      prefill_duration(AddHistogram(metrics, "qwenserve_sequence_prefill_seconds",
                                    "From a sequence's first step to its first token",
                                    FirstTokenSeconds(), {{"model", model}})),
      first_token(AddHistogram(metrics, "qwenserve_sequence_first_token_seconds",
                               "From submit to the first token", FirstTokenSeconds(),
                               {{"model", model}})),
      inter_token(AddHistogram(metrics, "qwenserve_sequence_inter_token_seconds",
                               "Between two tokens of a sequence", StepSeconds(),
                               {{"model", model}})),
      decode_duration(AddHistogram(metrics, "qwenserve_sequence_decode_seconds",
                                   "From a sequence's first token to its end", RequestSeconds(),
                                   {{"model", model}})),
      sequence_duration(AddHistogram(metrics, "qwenserve_sequence_duration_seconds",
                                     "From submit to the end, of sequences with a token",
                                     RequestSeconds(), {{"model", model}})),
      prompt_tokens_per_sequence(AddHistogram(metrics, "qwenserve_sequence_prompt_tokens",
                                              "Prompt tokens of a sequence, at its first token",
                                              TokenCounts(), {{"model", model}})),
      tokens_per_sequence(AddHistogram(metrics, "qwenserve_sequence_generated_tokens",
                                       "Tokens drawn for a sequence, at its end", TokenCounts(),
                                       {{"model", model}})) {}

void SetCacheInfo(Metrics& metrics, const std::string& model, int64_t block_size,
                  int64_t num_blocks) {
  AddGauge(metrics, "qwenserve_cache_info", "Always 1; the labels tell the size of the KV cache",
           {{"model", model},
            {"block_size", std::to_string(block_size)},
            {"num_gpu_blocks", std::to_string(num_blocks)}})
      .Set(1);
}

RankMetrics::RankMetrics(Metrics& metrics, const std::string& model,
                         const std::vector<RankProgress>& ranks) {
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const MetricLabels labels = {{"model", model}, {"rank", std::to_string(rank)}};
    Series series;
    series.step_age =
        &AddGauge(metrics, "qwenserve_rank_step_age_seconds",
                  "Since the rank's unfinished step could begin; 0 between steps", labels);
    series.steps =
        &AddCounter(metrics, "qwenserve_rank_steps_total", "Steps that the rank has ended", labels);
    if (ranks.size() > 1) {
      series.collective_seconds = &AddCounter(
          metrics, "qwenserve_collective_seconds_total",
          "Time in collectives, the wait for the other ranks included; CPU ranks only", labels);
    }
    if (ranks[rank].device_total > 0) {
      series.memory_used = &AddGauge(metrics, "qwenserve_gpu_memory_used_bytes",
                                     "Memory of the rank's GPU in use, by whomever", labels);
      series.memory_total =
          &AddGauge(metrics, "qwenserve_gpu_memory_bytes", "Memory of the rank's GPU", labels);
    }
    series_.push_back(series);
  }
  Set(ranks);
}

void RankMetrics::Set(const std::vector<RankProgress>& ranks) {
  for (size_t rank = 0; rank < std::min(ranks.size(), series_.size()); ++rank) {
    const Series& series = series_[rank];
    const RankProgress& progress = ranks[rank];
    series.step_age->Set(absl::ToDoubleSeconds(progress.step_age));
    RaiseTo(*series.steps, static_cast<double>(progress.step));
    if (series.collective_seconds != nullptr) {
      RaiseTo(*series.collective_seconds, absl::ToDoubleSeconds(progress.collective_time));
    }
    if (series.memory_used != nullptr) {
      series.memory_used->Set(static_cast<double>(progress.device_used));
      series.memory_total->Set(static_cast<double>(progress.device_total));
    }
  }
}

}  // namespace qwenserve
