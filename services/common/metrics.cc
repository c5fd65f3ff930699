#include "services/common/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "prometheus/text_serializer.h"
#include "services/common/version.h"

namespace qwenserve {
namespace {

using Labels = std::map<std::string, std::string>;
using Buckets = Histogram::BucketBoundaries;

Buckets RequestSeconds() {
  return {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
}
Buckets FirstTokenSeconds() {
  return {0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
}
Buckets StepSeconds() {
  return {0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05,
          0.075, 0.1,    0.15,  0.2,  0.3,   0.5,  1,     2.5,  5,    10};
}
Buckets PrepareSeconds() {
  return {0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1};
}
Buckets TokenCounts() {
  return {1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};
}

prometheus::Family<Counter>& Counters(Metrics& metrics, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(metrics.registry());
}

Counter& AddCounter(Metrics& metrics, const char* name, const char* help,
                    const Labels& labels = {}) {
  return Counters(metrics, name, help).Add(labels);
}

Gauge& AddGauge(prometheus::Registry& registry, const char* name, const char* help,
                const Labels& labels = {}) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
}

Gauge& AddGauge(Metrics& metrics, const char* name, const char* help, const Labels& labels = {}) {
  return AddGauge(metrics.registry(), name, help, labels);
}

Histogram& AddHistogram(Metrics& metrics, const char* name, const char* help, Buckets buckets,
                        const Labels& labels = {}) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(metrics.registry())
      .Add(labels, std::move(buckets));
}

constexpr char kRefusedName[] = "qwenserve_grpc_connections_refused_total";
constexpr char kHttpRefusedName[] = "qwenserve_http_connections_refused_total";
constexpr char kRefusedHelp[] = "Connections reset instead of accepted, by cause";
constexpr const char* kMethodNames[GatewayMetrics::kNumMethods] = {
    "Chat",         "StreamChat",     "Complete",       "StreamComplete",
    "Tokenize",     "Detokenize",     "ListModels",     "GetModel",
    "HttpChat",     "HttpStreamChat", "HttpComplete",   "HttpStreamComplete",
    "HttpTokenize", "HttpDetokenize", "HttpListModels", "HttpGetModel"};
constexpr char kAccessLinesName[] = "qwenserve_gateway_access_log_lines_total";
constexpr char kAccessLinesHelp[] = "Lines of the access log, by what became of them";
constexpr char kReloadsName[] = "qwenserve_file_reloads_total";
constexpr char kReloadsHelp[] = "Watched files read anew, by file and result";
constexpr char kFinishedName[] = "qwenserve_sequences_finished_total";
constexpr char kFinishedHelp[] = "Sequences that ended, by reason";
constexpr char kSampledRowsName[] = "qwenserve_sampled_rows_total";
constexpr char kSampledRowsHelp[] = "Rows sampled by several ranks, by what they sent rank 0";
constexpr char kWorkersName[] = "qwenserve_gateway_workers_ready";
constexpr char kWorkersHelp[] = "Workers that can be given requests";
constexpr char kOutName[] = "qwenserve_gateway_generators_out";
constexpr char kOutHelp[] = "Generators that get no work for now, by why";
constexpr char kEjectedName[] = "qwenserve_gateway_generator_ejections_total";
constexpr char kEjectedHelp[] = "Times that a generator was taken out of work, by why";
constexpr char kListedName[] = "qwenserve_gateway_workers_listed";
constexpr char kListedHelp[] = "Addresses that discovery has found";
constexpr char kDiscoveryName[] = "qwenserve_gateway_discovery_failures_total";
constexpr char kDiscoveryHelp[] = "Look-ups that gave nothing usable; the last good list stays";
constexpr char kPlacedName[] = "qwenserve_gateway_placements_total";
constexpr char kPlacedHelp[] = "Requests given to a generator, by why to that one";
constexpr char kLostName[] = "qwenserve_gateway_workers_lost_total";
constexpr char kLostHelp[] = "Workers that vanished or stalled";

double ResidentBytes() {
  long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
    if (std::fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return static_cast<double>(pages) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double OpenDescriptors() {
  int count = 0;
  if (DIR* folder = opendir("/proc/self/fd"); folder != nullptr) {
    while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
    closedir(folder);
    --count;  // the one that reads the folder
  }
  return count;
}

}  // namespace

void RaiseTo(Counter& counter, double total) {
  const double step = total - counter.Value();
  if (step > 0) counter.Increment(step);
}

CounterPerCode::CounterPerCode(prometheus::Family<Counter>& family, Labels labels) {
  for (size_t code = 0; code < counters_.size(); ++code) {
    labels["code"] = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
    counters_[code] = &family.Add(labels);
  }
}

void CounterPerCode::Increment(absl::StatusCode code) {
  const size_t index = static_cast<size_t>(code);
  counters_[index < counters_.size() ? index : static_cast<size_t>(absl::StatusCode::kUnknown)]
      ->Increment();
}

Metrics::Metrics(absl::string_view role)
    : registry_(std::make_shared<prometheus::Registry>()),
      start_time_(AddGauge(*registry_, "process_start_time_seconds",
                           "Start of the process since the Unix epoch")),
      resident_memory_(AddGauge(*registry_, "process_resident_memory_bytes", "Resident memory")),
      open_descriptors_(AddGauge(*registry_, "process_open_fds", "Open file descriptors")),
      max_descriptors_(AddGauge(*registry_, "process_max_fds", "Limit of file descriptors")),
      cpu_seconds_(prometheus::BuildCounter()
                       .Name("process_cpu_seconds_total")
                       .Help("User and system time")
                       .Register(*registry_)
                       .Add({})) {
  start_time_.Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  AddGauge(*registry_, "qwenserve_build_info", "Always 1; the labels tell what runs",
           {{"version", std::string(Version())}, {"role", std::string(role)}})
      .Set(1);
}

void Metrics::OnScrape(std::function<void()> update) {
  absl::MutexLock lock(&mutex_);
  hooks_.push_back(std::move(update));
}

void Metrics::ClearScrapeHooks() {
  absl::MutexLock lock(&mutex_);
  hooks_.clear();
}

void Metrics::UpdateProcess() {
  resident_memory_.Set(ResidentBytes());
  open_descriptors_.Set(OpenDescriptors());
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    max_descriptors_.Set(static_cast<double>(limit.rlim_cur));
  }
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    RaiseTo(cpu_seconds_, absl::ToDoubleSeconds(absl::DurationFromTimeval(usage.ru_utime) +
                                                absl::DurationFromTimeval(usage.ru_stime)));
  }
}

std::string Metrics::Scrape() {
  // The hooks run under the lock, so that none runs after ClearScrapeHooks has returned.
  absl::MutexLock lock(&mutex_);
  for (const auto& hook : hooks_) hook();
  UpdateProcess();
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

ServerMetrics::ServerMetrics(Metrics& metrics)
    : ready(AddGauge(metrics, "qwenserve_ready", "1 while the process takes requests")),
      connections(AddGauge(metrics, "qwenserve_grpc_connections", "Open connections")),
      accepted(
          AddCounter(metrics, "qwenserve_grpc_connections_accepted_total", "Connections accepted")),
      refused_limit(AddCounter(metrics, kRefusedName, kRefusedHelp, {{"cause", "limit"}})),
      refused_peer_limit(
          AddCounter(metrics, kRefusedName, kRefusedHelp, {{"cause", "peer_limit"}})),
      refused_descriptors(
          AddCounter(metrics, kRefusedName, kRefusedHelp, {{"cause", "descriptors"}})),
      refused_proxy_header(
          AddCounter(metrics, kRefusedName, kRefusedHelp, {{"cause", "proxy_header"}})) {}

AuthMetrics::AuthMetrics(Metrics& metrics)
    : keys(AddGauge(metrics, "qwenserve_gateway_api_keys", "API keys in force")),
      reloads_ok(AddCounter(metrics, kReloadsName, kReloadsHelp,
                            {{"file", "api_keys"}, {"result", "ok"}})),
      reloads_failed(AddCounter(metrics, kReloadsName, kReloadsHelp,
                                {{"file", "api_keys"}, {"result", "failed"}})) {
  for (int i = 0; i < kNumFailures; ++i) {
    failures[i] = &AddCounter(metrics, "qwenserve_gateway_auth_failures_total",
                              "Requests without a valid API key, by what is wrong with it",
                              {{"reason", kFailureNames[i]}});
  }
}

TlsMetrics::TlsMetrics(Metrics& metrics, const std::string& name)
    : not_after(AddGauge(metrics, "qwenserve_tls_cert_not_after_seconds",
                         "End of the certificate in use, in seconds since 1970", {{"file", name}})),
      reloads_ok(
          AddCounter(metrics, kReloadsName, kReloadsHelp, {{"file", name}, {"result", "ok"}})),
      reloads_failed(AddCounter(metrics, kReloadsName, kReloadsHelp,
                                {{"file", name}, {"result", "failed"}})) {}

AccessLogMetrics::AccessLogMetrics(Metrics& metrics)
    : written(AddCounter(metrics, kAccessLinesName, kAccessLinesHelp, {{"result", "written"}})),
      dropped(AddCounter(metrics, kAccessLinesName, kAccessLinesHelp, {{"result", "dropped"}})) {}

TokenizerMetrics::TokenizerMetrics(Metrics& metrics)
    : prepare_requests(Counters(metrics, "qwenserve_tokenizer_prepare_requests_total",
                                "Prompts prepared, by status"),
                       {}),
      prepare_duration(AddHistogram(metrics, "qwenserve_tokenizer_prepare_duration_seconds",
                                    "Time to prepare a prompt", PrepareSeconds())),
      prompt_tokens(AddCounter(metrics, "qwenserve_tokenizer_prompt_tokens_total",
                               "Ids given back for prompts")),
      detokenize_streams(
          AddGauge(metrics, "qwenserve_tokenizer_detokenize_streams", "Open detokenize streams")),
      detokenize_steps(
          AddCounter(metrics, "qwenserve_tokenizer_detokenize_steps_total", "Detokenize messages")),
      detokenize_tokens(AddCounter(metrics, "qwenserve_tokenizer_detokenize_tokens_total",
                                   "Ids turned into text")),
      detokenize_item_errors(AddCounter(metrics, "qwenserve_tokenizer_detokenize_item_errors_total",
                                        "Detokenize items refused")) {}

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
      queue_duration(AddHistogram(metrics, "qwenserve_queue_duration_seconds",
                                  "From submit to the first step", FirstTokenSeconds(),
                                  {{"model", model}})) {}

HttpMetrics::HttpMetrics(Metrics& metrics)
    : connections(AddGauge(metrics, "qwenserve_http_connections", "Open connections")),
      requests_in_flight(AddGauge(metrics, "qwenserve_http_requests_in_flight",
                                  "Requests received whose answer is not complete")),
      accepted(
          AddCounter(metrics, "qwenserve_http_connections_accepted_total", "Connections accepted")),
      refused_limit(AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "limit"}})),
      refused_peer_limit(
          AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "peer_limit"}})),
      refused_descriptors(
          AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "descriptors"}})),
      refused_proxy_header(
          AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "proxy_header"}})),
      requests(AddCounter(metrics, "qwenserve_http_requests_total", "Complete requests received")),
      malformed(AddCounter(metrics, "qwenserve_http_malformed_requests_total",
                           "Requests refused because they are not plain HTTP/1.1")),
      handshakes_failed(AddCounter(metrics, "qwenserve_http_tls_handshakes_failed_total",
                                   "Connections without TLS, or a certificate that was asked for")),
      timeouts(AddCounter(metrics, "qwenserve_http_timeouts_total",
                          "Requests that were not sent, or answers not read, in time")),
      abandoned(AddCounter(metrics, "qwenserve_http_abandoned_requests_total",
                           "Requests whose client left before the end of the answer")) {}

const char* GatewayMetrics::MethodName(Method method) { return kMethodNames[method]; }

GatewayMetrics::GatewayMetrics(Metrics& metrics)
    : in_flight(AddGauge(metrics, "qwenserve_gateway_requests_in_flight", "Requests in flight")),
      waiting(AddGauge(metrics, "qwenserve_gateway_requests_waiting",
                       "Requests in flight that wait for a replica with room")),
      predicted_wait(AddHistogram(metrics, "qwenserve_gateway_predicted_wait_seconds",
                                  "Wait for a replica as predicted at arrival, of placed requests",
                                  RequestSeconds())),
      actual_wait(AddHistogram(metrics, "qwenserve_gateway_queue_wait_seconds",
                               "Wait for a replica as it turned out, of the same requests",
                               RequestSeconds())),
      time_to_first_token(AddHistogram(metrics, "qwenserve_time_to_first_token_seconds",
                                       "From the request's arrival to its first token",
                                       FirstTokenSeconds())),
      inter_token(AddHistogram(metrics, "qwenserve_inter_token_seconds",
                               "Between two tokens of an answer", StepSeconds())),
      prompt_tokens_per_request(AddHistogram(metrics, "qwenserve_request_prompt_tokens",
                                             "Prompt tokens of a request", TokenCounts())),
      completion_tokens_per_request(AddHistogram(metrics, "qwenserve_request_completion_tokens",
                                                 "Completion tokens of a request", TokenCounts())),
      peers_at_stream_limit(
          AddCounter(metrics, "qwenserve_gateway_peers_at_stream_limit_total",
                     "Generations that took the last place of their gRPC connection")),
      prompt_tokens(AddCounter(metrics, "qwenserve_gateway_prompt_tokens_total",
                               "Prompt tokens of admitted requests")),
      completion_tokens(AddCounter(metrics, "qwenserve_gateway_completion_tokens_total",
                                   "Completion tokens given to clients")),
      tokenizers_ready(AddGauge(metrics, kWorkersName, kWorkersHelp, {{"role", "tokenizer"}})),
      generators_ready(AddGauge(metrics, kWorkersName, kWorkersHelp, {{"role", "generator"}})),
      tokenizers_lost(AddCounter(metrics, kLostName, kLostHelp, {{"role", "tokenizer"}})),
      generators_lost(AddCounter(metrics, kLostName, kLostHelp, {{"role", "generator"}})),
      generators_ejected(AddGauge(metrics, kOutName, kOutHelp, {{"state", "ejected"}})),
      generators_breaker_open(AddGauge(metrics, kOutName, kOutHelp, {{"state", "breaker_open"}})),
      ejected_errors(AddCounter(metrics, kEjectedName, kEjectedHelp, {{"reason", "errors"}})),
      ejected_latency(AddCounter(metrics, kEjectedName, kEjectedHelp, {{"reason", "latency"}})),
      breakers_opened(AddCounter(metrics, kEjectedName, kEjectedHelp, {{"reason", "breaker"}})),
      tokenizers_listed(AddGauge(metrics, kListedName, kListedHelp, {{"role", "tokenizer"}})),
      generators_listed(AddGauge(metrics, kListedName, kListedHelp, {{"role", "generator"}})),
      dns_failures(AddCounter(metrics, kDiscoveryName, kDiscoveryHelp, {{"source", "dns"}})),
      file_failures(AddCounter(metrics, kDiscoveryName, kDiscoveryHelp, {{"source", "file"}})),
      placed_known_prefix(
          AddCounter(metrics, kPlacedName, kPlacedHelp, {{"reason", "known_prefix"}})),
      placed_home(AddCounter(metrics, kPlacedName, kPlacedHelp, {{"reason", "home"}})),
      placed_least_load(AddCounter(metrics, kPlacedName, kPlacedHelp, {{"reason", "least_load"}})),
      failover_gap(AddHistogram(metrics, "qwenserve_gateway_failover_gap_seconds",
                                "From an answer's last token at the replica that it left to its "
                                "first one elsewhere",
                                FirstTokenSeconds())),
      retry_budget_exhausted(AddCounter(metrics, "qwenserve_gateway_retry_budget_exhausted_total",
                                        "Refusals by replicas that were not retried elsewhere")),
      suspected_poison(AddCounter(metrics, "qwenserve_gateway_suspected_poison_total",
                                  "Requests ended because two replicas were lost with them")),
      queue_depth_(prometheus::BuildGauge()
                       .Name("qwenserve_gateway_queue_depth")
                       .Help("Requests that wait for a replica, by model")
                       .Register(metrics.registry())) {
  const char* const kSheds[kNumSheds] = {
      "requests", "bytes",          "queue_full",   "displaced",         "wait",
      "deadline", "quota_requests", "quota_tokens", "quota_concurrency", "slow_consumer"};
  auto& sheds_family = Counters(metrics, "qwenserve_gateway_sheds_total",
                                "Requests turned away or ended for want of room, by cause");
  for (const char* cause : kSheds) sheds.push_back(&sheds_family.Add({{"cause", cause}}));
  for (const char* cause :
       {"ended", "silent", "stalled", "failed", "draining", "refused", "unreachable", "paused"}) {
    failovers.push_back(&AddCounter(metrics, "qwenserve_gateway_failovers_total",
                                    "Samples that went on at another replica, by what parted them "
                                    "from the last one",
                                    {{"cause", cause}}));
  }
  auto& requests_family =
      Counters(metrics, "qwenserve_gateway_requests_total", "Requests ended, by method and status");
  for (const char* method : kMethodNames) {
    requests.emplace_back(requests_family, Labels{{"method", method}});
    duration.push_back(&AddHistogram(metrics, "qwenserve_gateway_request_duration_seconds",
                                     "From arrival to the end", RequestSeconds(),
                                     {{"method", method}}));
  }
}

void GatewayMetrics::SetQueueDepth(const std::string& model, size_t waiting) {
  queue_depth_.Add({{"model", model}}).Set(static_cast<double>(waiting));
}

}  // namespace qwenserve
