#include "services/common/metrics/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "prometheus/text_serializer.h"
#include "services/common/metrics/metric_builders.h"
#include "services/common/version.h"

namespace qwenserve {
namespace {

constexpr char kRefusedName[] = "qwenserve_grpc_connections_refused_total";

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

CounterPerCode::CounterPerCode(prometheus::Family<Counter>& family, MetricLabels labels) {
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

HistogramBatch::HistogramBatch(Histogram& histogram, Histogram::BucketBoundaries bounds)
    : histogram_(histogram), bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void HistogramBatch::Observe(double value, int times) {
  // A bucket holds what is not above its bound, as Histogram::Observe has it.
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  counts_[bound - bounds_.begin()] += times;
  sum_ += value * times;
  empty_ = false;
}

void HistogramBatch::Flush() {
  if (std::exchange(empty_, true)) return;
  histogram_.ObserveMultiple(counts_, std::exchange(sum_, 0));
  std::fill(counts_.begin(), counts_.end(), 0);
}

Metrics::Metrics(absl::string_view role)
    : registry_(std::make_shared<prometheus::Registry>()),
      start_time_(AddGauge(*this, "process_start_time_seconds",
                           "Start of the process since the Unix epoch")),
      resident_memory_(AddGauge(*this, "process_resident_memory_bytes", "Resident memory")),
      open_descriptors_(AddGauge(*this, "process_open_fds", "Open file descriptors")),
      max_descriptors_(AddGauge(*this, "process_max_fds", "Limit of file descriptors")),
      cpu_seconds_(AddCounter(*this, "process_cpu_seconds_total", "User and system time")) {
  start_time_.Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  AddGauge(*this, "qwenserve_build_info", "Always 1; the labels tell what runs",
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

void Metrics::SetAliases(Rewrite aliases) {
  absl::MutexLock lock(&mutex_);
  aliases_ = std::move(aliases);
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
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  if (aliases_ != nullptr) {
    std::vector<prometheus::MetricFamily> more = aliases_(families);
    std::move(more.begin(), more.end(), std::back_inserter(families));
  }
  return prometheus::TextSerializer().Serialize(families);
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

Counter& ReloadCounter(Metrics& metrics, const std::string& file, const char* result) {
  return AddCounter(metrics, "qwenserve_file_reloads_total",
                    "Watched files read anew, by file and result",
                    {{"file", file}, {"result", result}});
}

TlsMetrics::TlsMetrics(Metrics& metrics, const std::string& name)
    : not_after(AddGauge(metrics, "qwenserve_tls_cert_not_after_seconds",
                         "End of the certificate in use, in seconds since 1970", {{"file", name}})),
      reloads_ok(ReloadCounter(metrics, name, "ok")),
      reloads_failed(ReloadCounter(metrics, name, "failed")) {}

}  // namespace qwenserve
