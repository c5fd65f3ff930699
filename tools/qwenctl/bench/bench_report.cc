#include "tools/qwenctl/bench/bench_report.h"

#include <sys/resource.h>
#include <sys/time.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/json_reader.h"

namespace qwenserve {
namespace {

// Beyond it a client measures itself.
constexpr double kBusyShare = 0.7;
constexpr absl::Duration kLateSend = absl::Milliseconds(10);

double Ms(absl::Duration value) { return absl::ToDoubleMilliseconds(value); }

Json HistogramJson(const LatencyHistogram& histogram) {
  return {{"mean", Ms(histogram.mean())},
          {"p50", Ms(histogram.Percentile(0.5))},
          {"p90", Ms(histogram.Percentile(0.9))},
          {"p99", Ms(histogram.Percentile(0.99))},
          {"max", Ms(histogram.max())}};
}

std::string HistogramLine(const char* name, const LatencyHistogram& histogram) {
  return absl::StrFormat("%-18s %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, Ms(histogram.mean()),
                         Ms(histogram.Percentile(0.5)), Ms(histogram.Percentile(0.9)),
                         Ms(histogram.Percentile(0.99)), Ms(histogram.max()));
}

}  // namespace

absl::Duration OwnCpuTime() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
}

double BenchReport::PerSecond(uint64_t count) const {
  return elapsed_ > absl::ZeroDuration()
             ? static_cast<double>(count) / absl::ToDoubleSeconds(elapsed_)
             : 0;
}

double BenchReport::GoodShare() const {
  const uint64_t ended = recorder_.ended();
  return ended == 0 ? 1 : static_cast<double>(recorder_.good()) / static_cast<double>(ended);
}

bool BenchReport::limits_kept() const {
  return !recorder_.limits().any() || GoodShare() >= options_.min_goodput;
}

std::string BenchReport::Doubt() const {
  const double cores = std::max(1u, std::thread::hardware_concurrency());
  const double busy = absl::FDivDuration(cpu_, elapsed_);
  if (busy > kBusyShare * cores) {
    return absl::StrFormat("this client used %.1f of %.0f cores", busy, cores);
  }
  const absl::Duration late = recorder_.send_delay.Percentile(0.99);
  if (late > kLateSend) {
    return absl::StrCat("this client sent one request in a hundred ", absl::FormatDuration(late),
                        " late or more");
  }
  return "";
}

std::string BenchReport::Table() const {
  std::string text = absl::StrFormat(
      "requests           %d sent, %d well, %d failed in %.1f s: %.2f/s\n", recorder_.started(),
      recorder_.succeeded(), recorder_.ended() - recorder_.succeeded(),
      absl::ToDoubleSeconds(elapsed_), PerSecond(recorder_.succeeded()));
  for (const auto& [error, count] : recorder_.errors()) {
    absl::StrAppend(&text, "  ", error, "  ", count, "\n");
  }
  absl::StrAppendFormat(&text, "prompt tokens      %d: %.1f/s\n", recorder_.prompt_tokens(),
                        PerSecond(recorder_.prompt_tokens()));
  absl::StrAppendFormat(&text, "answer tokens      %d in %d messages: %.1f/s\n", recorder_.tokens(),
                        recorder_.messages(), PerSecond(recorder_.tokens()));
  absl::StrAppendFormat(&text, "%-18s %9s %9s %9s %9s %9s\n", "milliseconds", "mean", "p50", "p90",
                        "p99", "max");
  absl::StrAppend(&text, HistogramLine("first token", recorder_.ttft),
                  HistogramLine("between messages", recorder_.inter_token),
                  HistogramLine("whole request", recorder_.end_to_end),
                  HistogramLine("sent late by", recorder_.send_delay));
  if (recorder_.limits().any()) {
    absl::StrAppendFormat(&text, "goodput            %.2f/s, %.2f %% within %s (wanted: %.2f %%)\n",
                          PerSecond(recorder_.good()), 100 * GoodShare(), options_.goodput,
                          100 * options_.min_goodput);
  }
  absl::StrAppendFormat(&text, "this client        %.2f cores\n",
                        absl::FDivDuration(cpu_, elapsed_));
  return text;
}

std::string BenchReport::ToJson() const {
  Json errors = Json::object();
  for (const auto& [error, count] : recorder_.errors()) errors[error] = count;
  Json json = {{"api", options_.api},
               {"rate", options_.rate},
               {"concurrency", options_.open_loop() ? 0 : options_.concurrency},
               {"connections", options_.connections},
               {"seed", options_.seed},
               {"seconds", absl::ToDoubleSeconds(elapsed_)},
               {"requests", recorder_.started()},
               {"succeeded", recorder_.succeeded()},
               {"requests_per_s", PerSecond(recorder_.succeeded())},
               {"errors", std::move(errors)},
               {"prompt_tokens", recorder_.prompt_tokens()},
               {"tokens", recorder_.tokens()},
               {"messages", recorder_.messages()},
               {"tokens_per_s", PerSecond(recorder_.tokens())},
               {"ttft_ms", HistogramJson(recorder_.ttft)},
               {"inter_token_ms", HistogramJson(recorder_.inter_token)},
               {"e2e_ms", HistogramJson(recorder_.end_to_end)},
               {"send_delay_ms", HistogramJson(recorder_.send_delay)},
               {"client_cpu_cores", absl::FDivDuration(cpu_, elapsed_)},
               {"doubt", Doubt()}};
  if (recorder_.limits().any()) {
    json["goodput"] = {{"limits", options_.goodput},
                       {"requests_per_s", PerSecond(recorder_.good())},
                       {"share", GoodShare()},
                       {"wanted_share", options_.min_goodput},
                       {"kept", limits_kept()}};
  }
  return json.dump();
}

}  // namespace qwenserve
