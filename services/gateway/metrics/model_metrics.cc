#include "services/gateway/metrics/model_metrics.h"

#include "services/common/metrics/metric_builders.h"

namespace qwenserve {

ModelMetrics::ModelMetrics(Metrics& metrics, const std::string& model)
    : predicted_wait(AddHistogram(metrics, "qwenserve_gateway_predicted_wait_seconds",
                                  "Wait for a replica as predicted at arrival, of placed requests",
                                  RequestSeconds(), {{"model", model}})),
      actual_wait(AddHistogram(metrics, "qwenserve_gateway_queue_wait_seconds",
                               "Wait for a replica as it turned out", RequestSeconds(),
                               {{"model", model}})),
      time_to_first_token(AddHistogram(metrics, "qwenserve_time_to_first_token_seconds",
                                       "From the request's arrival to its first token",
                                       FirstTokenSeconds(), {{"model", model}})),
      inter_token(AddHistogram(metrics, "qwenserve_inter_token_seconds",
                               "Between two tokens of an answer", StepSeconds(),
                               {{"model", model}})),
      duration(AddHistogram(metrics, "qwenserve_request_duration_seconds",
                            "From the arrival of a request that a replica took to its end",
                            RequestSeconds(), {{"model", model}})),
      prompt_tokens_per_request(AddHistogram(metrics, "qwenserve_request_prompt_tokens",
                                             "Prompt tokens of a request", TokenCounts(),
                                             {{"model", model}})),
      completion_tokens_per_request(AddHistogram(metrics, "qwenserve_request_completion_tokens",
                                                 "Completion tokens of a request", TokenCounts(),
                                                 {{"model", model}})),
      prompt_tokens(AddCounter(metrics, "qwenserve_gateway_prompt_tokens_total",
                               "Prompt tokens of requests that a replica took",
                               {{"model", model}})),
      cached_prompt_tokens(AddCounter(metrics, "qwenserve_gateway_cached_prompt_tokens_total",
                                      "Those of them that came from a prefix cache",
                                      {{"model", model}})),
      completion_tokens(AddCounter(metrics, "qwenserve_gateway_completion_tokens_total",
                                   "Completion tokens given to clients", {{"model", model}})),
      model_(model),
      queue_depth_(AddGauge(metrics, "qwenserve_gateway_queue_depth",
                            "Requests that wait in this gateway for a replica, by model",
                            {{"model", model}})),
      queued_(AddGauge(metrics, "qwenserve_gateway_model_queued_requests",
                       "Requests that wait: in this gateway, and in the model's replicas",
                       {{"model", model}})),
      running_(AddGauge(metrics, "qwenserve_gateway_model_running_requests",
                        "Sequences in the batches of the model's replicas", {{"model", model}})),
      kv_usage_ratio_(AddGauge(metrics, "qwenserve_gateway_model_kv_cache_usage_ratio",
                               "Part of the KV cache of the model's replicas in use, 0 to 1",
                               {{"model", model}})),
      replicas_(AddGauge(metrics, "qwenserve_gateway_model_replicas",
                         "Replicas of the model that take work", {{"model", model}})),
      cache_info_family_(Gauges(metrics, "qwenserve_gateway_model_cache_info",
                                "Always 1; the labels tell the KV cache of the model's replicas")) {
  const char* const kReasons[kNumFinishes] = {"stop", "length", "tool_calls"};
  for (int i = 0; i < kNumFinishes; ++i) {
    finished[i] = &AddCounter(metrics, "qwenserve_gateway_answers_finished_total",
                              "Complete answers, by why they ended",
                              {{"model", model}, {"reason", kReasons[i]}});
  }
}

void ModelMetrics::SetLoad(const ModelLoad& load, size_t waiting_here) {
  const double here = static_cast<double>(waiting_here);
  queue_depth_.Set(here);
  queued_.Set(here + static_cast<double>(load.waiting));
  running_.Set(static_cast<double>(load.running));
  kv_usage_ratio_.Set(load.total_blocks > 0 ? static_cast<double>(load.used_blocks) /
                                                  static_cast<double>(load.total_blocks)
                                            : 0);
  replicas_.Set(static_cast<double>(load.replicas));
  // Without replicas the last size stays: who reads it would take 0 for a size.
  if (load.total_blocks == 0) return;
  if (load.total_blocks == total_blocks_ && load.block_tokens == block_tokens_) return;
  if (cache_info_ != nullptr) cache_info_family_.Remove(cache_info_);
  block_tokens_ = load.block_tokens;
  total_blocks_ = load.total_blocks;
  cache_info_ = &cache_info_family_.Add({{"model", model_},
                                         {"block_size", std::to_string(block_tokens_)},
                                         {"num_gpu_blocks", std::to_string(total_blocks_)}});
  cache_info_->Set(1);
}

ModelMetrics& ModelMetricsMap::Of(const std::string& model) {
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<ModelMetrics>& metrics = models_[model];
  if (metrics == nullptr) metrics = std::make_unique<ModelMetrics>(metrics_, model);
  return *metrics;
}

void ModelMetricsMap::SetLoads(const std::map<std::string, ModelLoad>& loads,
                               const std::map<std::string, size_t>& waiting_here) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [model, metrics] : models_) {
    const auto load = loads.find(model);
    const auto waiting = waiting_here.find(model);
    metrics->SetLoad(load == loads.end() ? ModelLoad() : load->second,
                     waiting == waiting_here.end() ? 0 : waiting->second);
  }
}

}  // namespace qwenserve
