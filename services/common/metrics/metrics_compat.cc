#include "services/common/metrics/metrics_compat.h"

#include <algorithm>
#include <utility>

namespace qwenserve {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Alias {
  const char* name;
  const char* source;
  const char* help;
  bool sum = false;  // the histogram's sum, as a counter
};

constexpr char kRunningHelp[] = "Sequences in the batch";
constexpr char kWaitingHelp[] = "Requests that wait for a place in the batch";
constexpr char kUsageHelp[] = "Part of the KV cache in use, 0 to 1";
constexpr char kCacheHelp[] = "Always 1; the labels tell the size of the KV cache";
constexpr char kPromptHelp[] = "Prompt tokens, those from the cache included";
constexpr char kGeneratedHelp[] = "Generated tokens";
constexpr char kSuccessHelp[] = "Finished requests, by reason";
constexpr char kFirstHelp[] = "Time to the first token";
constexpr char kInterHelp[] = "Time between two tokens";
constexpr char kWholeHelp[] = "Time from arrival to the end";
constexpr char kQueueHelp[] = "Time until the first step";
constexpr char kPromptsHelp[] = "Prompt tokens of a request";
constexpr char kAnswersHelp[] = "Generated tokens of a request";

// First those of a generator, then those of a gateway: no process has both.
constexpr Alias kVllm[] = {
    {"vllm:num_requests_running", "qwenserve_sequences_running", kRunningHelp},
    {"vllm:num_requests_waiting", "qwenserve_sequences_waiting", kWaitingHelp},
    {"vllm:kv_cache_usage_perc", "qwenserve_kv_cache_usage_ratio", kUsageHelp},
    {"vllm:gpu_cache_usage_perc", "qwenserve_kv_cache_usage_ratio", kUsageHelp},
    {"vllm:cache_config_info", "qwenserve_cache_info", kCacheHelp},
    {"vllm:prefix_cache_queries_total", "qwenserve_prefix_cache_queried_tokens_total",
     "Tokens that the prefix cache was asked for"},
    {"vllm:prefix_cache_hits_total", "qwenserve_prefix_cache_hit_tokens_total",
     "Tokens that the prefix cache had"},
    {"vllm:num_preemptions_total", "qwenserve_preemptions_total",
     "Sequences put back for want of KV blocks"},
    {"vllm:prompt_tokens_total", "qwenserve_sequence_prompt_tokens", kPromptHelp, true},
    {"vllm:prompt_tokens_cached_total", "qwenserve_cached_prompt_tokens_total",
     "Prompt tokens from the cache"},
    {"vllm:generation_tokens_total", "qwenserve_generated_tokens_total", kGeneratedHelp},
    {"vllm:request_success_total", "qwenserve_sequences_finished_total", kSuccessHelp},
    {"vllm:iteration_tokens_total", "qwenserve_step_tokens", "Tokens of a step"},
    {"vllm:time_to_first_token_seconds", "qwenserve_sequence_first_token_seconds", kFirstHelp},
    {"vllm:inter_token_latency_seconds", "qwenserve_sequence_inter_token_seconds", kInterHelp},
    {"vllm:time_per_output_token_seconds", "qwenserve_sequence_inter_token_seconds", kInterHelp},
    {"vllm:e2e_request_latency_seconds", "qwenserve_sequence_duration_seconds", kWholeHelp},
    {"vllm:request_queue_time_seconds", "qwenserve_queue_duration_seconds", kQueueHelp},
    {"vllm:request_prefill_time_seconds", "qwenserve_sequence_prefill_seconds",
     "Time from the first step to the first token"},
    {"vllm:request_decode_time_seconds", "qwenserve_sequence_decode_seconds",
     "Time from the first token to the end"},
    {"vllm:request_prompt_tokens", "qwenserve_sequence_prompt_tokens", kPromptsHelp},
    {"vllm:request_generation_tokens", "qwenserve_sequence_generated_tokens", kAnswersHelp},

    {"vllm:num_requests_running", "qwenserve_gateway_model_running_requests", kRunningHelp},
    {"vllm:num_requests_waiting", "qwenserve_gateway_model_queued_requests", kWaitingHelp},
    {"vllm:kv_cache_usage_perc", "qwenserve_gateway_model_kv_cache_usage_ratio", kUsageHelp},
    {"vllm:gpu_cache_usage_perc", "qwenserve_gateway_model_kv_cache_usage_ratio", kUsageHelp},
    {"vllm:cache_config_info", "qwenserve_gateway_model_cache_info", kCacheHelp},
    {"vllm:prompt_tokens_total", "qwenserve_gateway_prompt_tokens_total", kPromptHelp},
    {"vllm:prompt_tokens_cached_total", "qwenserve_gateway_cached_prompt_tokens_total",
     "Prompt tokens from the cache"},
    {"vllm:generation_tokens_total", "qwenserve_gateway_completion_tokens_total", kGeneratedHelp},
    {"vllm:request_success_total", "qwenserve_gateway_answers_finished_total", kSuccessHelp},
    {"vllm:time_to_first_token_seconds", "qwenserve_time_to_first_token_seconds", kFirstHelp},
    {"vllm:inter_token_latency_seconds", "qwenserve_inter_token_seconds", kInterHelp},
    {"vllm:time_per_output_token_seconds", "qwenserve_inter_token_seconds", kInterHelp},
    {"vllm:e2e_request_latency_seconds", "qwenserve_request_duration_seconds", kWholeHelp},
    {"vllm:request_queue_time_seconds", "qwenserve_gateway_queue_wait_seconds", kQueueHelp},
    {"vllm:request_prompt_tokens", "qwenserve_request_prompt_tokens", kPromptsHelp},
    {"vllm:request_generation_tokens", "qwenserve_request_completion_tokens", kAnswersHelp},
};

std::string VllmReason(const std::string& reason) {
  if (reason == "cancelled" || reason == "deadline") return "abort";
  // The model's answer ended by itself; that it calls tools is found out later.
  return reason == "tool_calls" ? "stop" : reason;
}

std::vector<ClientMetric::Label> VllmLabels(const std::vector<ClientMetric::Label>& labels) {
  std::vector<ClientMetric::Label> renamed = {{"engine", "0"}};
  for (ClientMetric::Label label : labels) {
    if (label.name == "model") label.name = "model_name";
    if (label.name == "reason") label = {"finished_reason", VllmReason(label.value)};
    renamed.push_back(std::move(label));
  }
  return renamed;
}

MetricFamily MakeAlias(const Alias& alias, const MetricFamily& source) {
  MetricFamily family;
  family.name = alias.name;
  family.help = alias.help;
  family.type = alias.sum ? MetricType::Counter : source.type;
  for (ClientMetric metric : source.metric) {
    metric.label = VllmLabels(metric.label);
    if (alias.sum) metric.counter.value = metric.histogram.sample_sum;
    const auto same =
        std::find_if(family.metric.begin(), family.metric.end(),
                     [&](const ClientMetric& other) { return other.label == metric.label; });
    if (same == family.metric.end()) {
      family.metric.push_back(std::move(metric));
    } else {  // reasons that vLLM does not tell apart
      same->counter.value += metric.counter.value;
    }
  }
  return family;
}

}  // namespace

void AddMetricsCompatFlag(Flags& flags, MetricsCompat* compat) {
  flags.Add("metrics-compat", &compat->names,
            "vllm: metrics also under the names that dashboards and autoscalers for vLLM look for");
  flags.OneOf({"none", "vllm"});
}

void UseMetricsCompat(const MetricsCompat& compat, Metrics& metrics) {
  if (compat.names == "vllm") metrics.SetAliases(VllmAliases);
}

std::vector<MetricFamily> VllmAliases(const std::vector<MetricFamily>& families) {
  std::vector<MetricFamily> aliases;
  for (const Alias& alias : kVllm) {
    const auto source =
        std::find_if(families.begin(), families.end(),
                     [&](const MetricFamily& family) { return family.name == alias.source; });
    if (source != families.end() && !source->metric.empty()) {
      aliases.push_back(MakeAlias(alias, *source));
    }
  }
  return aliases;
}

}  // namespace qwenserve
