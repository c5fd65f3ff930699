#include "tools/qwenctl/live_view.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "services/common/proto_time.h"

namespace qwenserve {
namespace {

std::string StateName(v1::ProcessState state) {
  return std::string(absl::StripPrefix(v1::ProcessState_Name(state), "PROCESS_STATE_"));
}

Json EngineJson(const v1::EngineStats& engine, const v1::EngineStats* before) {
  Json json = {{"running", engine.running()},
               {"waiting", engine.waiting()},
               {"queued_tokens", engine.queued_tokens()},
               {"step", engine.step()},
               {"step_age_s", absl::ToDoubleSeconds(FromProtoDuration(engine.step_age()))},
               {"kv_blocks", engine.total_blocks()},
               {"kv_blocks_used", engine.total_blocks() - engine.free_blocks()}};
  // Without it there was no heartbeat yet, or only those of an older version.
  if (before == nullptr || !before->has_read_at() || !engine.has_read_at()) return json;
  const double seconds = absl::ToDoubleSeconds(FromProtoDuration(engine.read_at()) -
                                               FromProtoDuration(before->read_at()));
  if (seconds <= 0) return json;
  const auto rate = [&](uint64_t (v1::EngineStats::*count)() const) {
    return static_cast<double>((engine.*count)() - (before->*count)()) / seconds;
  };
  json["steps_per_s"] = rate(&v1::EngineStats::step);
  json["tokens_per_s"] = rate(&v1::EngineStats::generated_tokens);
  json["prompt_tokens_per_s"] = rate(&v1::EngineStats::prompt_tokens);
  return json;
}

const v1::EngineStats* EngineBefore(const v1::GetStatusResponse& before,
                                    const v1::WorkerStatus& worker) {
  for (const v1::WorkerStatus& old : before.workers()) {
    if (old.role() == worker.role() && old.instance_id() == worker.instance_id()) {
      return &old.engine();
    }
  }
  return nullptr;
}

Json RatesJson(const MetricsSnapshot& before, const MetricsSnapshot& now, double seconds) {
  const auto rate = [&](const char* name) {
    return seconds > 0 ? (now.Sum(name) - before.Sum(name)) / seconds : 0;
  };
  const auto quantile = [&](const char* name, double fraction) {
    const double value = now.Quantile(name, fraction, before);
    return std::isnan(value) ? Json(nullptr) : Json(1000 * value);
  };
  return {{"waiting", now.Sum("qwenserve_gateway_requests_waiting")},
          {"requests_per_s", rate("qwenserve_gateway_requests_total")},
          {"tokens_per_s", rate("qwenserve_gateway_completion_tokens_total")},
          {"prompt_tokens_per_s", rate("qwenserve_gateway_prompt_tokens_total")},
          {"ttft_ms",
           {{"p50", quantile("qwenserve_time_to_first_token_seconds", 0.5)},
            {"p99", quantile("qwenserve_time_to_first_token_seconds", 0.99)}}},
          {"inter_token_ms",
           {{"p50", quantile("qwenserve_inter_token_seconds", 0.5)},
            {"p99", quantile("qwenserve_inter_token_seconds", 0.99)}}}};
}

std::string Number(const Json& object, const char* key, const char* format = "%.1f") {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return "-";
  return absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), found->get<double>());
}

std::string WorkerLine(const Json& worker) {
  std::string line =
      absl::StrFormat("%-9s %-24s %-11s %7.0f", worker["role"].get<std::string>(),
                      worker["address"].get<std::string>().substr(0, 24),
                      worker["state"].get<std::string>(), worker["in_flight"].get<double>());
  if (worker.contains("engine")) {
    const Json& engine = worker["engine"];
    const double blocks = std::max(1.0, engine["kv_blocks"].get<double>());
    absl::StrAppendFormat(
        &line, " %7.0f %7.0f %9.0f %5.1f%% %8s %9s %9s", engine["running"].get<double>(),
        engine["waiting"].get<double>(), engine["queued_tokens"].get<double>(),
        100 * engine["kv_blocks_used"].get<double>() / blocks, Number(engine, "steps_per_s"),
        Number(engine, "prompt_tokens_per_s", "%.0f"), Number(engine, "tokens_per_s", "%.0f"));
  }
  const std::string reason = worker["reason"];
  return reason.empty() ? line : absl::StrCat(line, "  ", reason);
}

}  // namespace

Json LiveJson(const LiveSample& before, const LiveSample& now) {
  const double seconds = absl::ToDoubleSeconds(now.when - before.when);
  const v1::GetStatusResponse& status = now.status;
  Json json = {{"role", status.role()},
               {"instance_id", status.instance_id()},
               {"version", status.version()},
               {"state", StateName(status.state())},
               {"uptime_s", absl::ToDoubleSeconds(FromProtoDuration(status.uptime()))},
               {"models", std::vector<std::string>(status.models().begin(), status.models().end())},
               {"in_flight", status.requests_in_flight()},
               {"workers", Json::array()}};
  if (now.metrics.has_value() && before.metrics.has_value()) {
    json["rates"] = RatesJson(*before.metrics, *now.metrics, seconds);
  }
  for (const v1::WorkerStatus& worker : status.workers()) {
    Json one = {{"role", worker.role()},
                {"address", worker.address()},
                {"instance_id", worker.instance_id()},
                {"model", worker.model()},
                {"state", StateName(worker.state())},
                {"reason", worker.reason()},
                {"in_flight", worker.requests_in_flight()}};
    if (worker.has_engine()) {
      one["engine"] = EngineJson(worker.engine(), EngineBefore(before.status, worker));
    }
    json["workers"].push_back(std::move(one));
  }
  if (status.has_engine()) {
    json["engine"] = EngineJson(status.engine(), &before.status.engine());
  }
  return json;
}

std::string LiveTable(const Json& live) {
  std::string text = absl::StrFormat(
      "%s %s  %s  %s  up %s  %.0f in flight\n", live["role"].get<std::string>(),
      live["instance_id"].get<std::string>(), live["version"].get<std::string>(),
      live["state"].get<std::string>(),
      absl::FormatDuration(absl::Seconds(std::floor(live["uptime_s"].get<double>()))),
      live["in_flight"].get<double>());
  if (live.contains("rates")) {
    const Json& rates = live["rates"];
    absl::StrAppend(&text, "requests/s ", Number(rates, "requests_per_s"), "  waiting ",
                    Number(rates, "waiting", "%.0f"), "  tokens/s ", Number(rates, "tokens_per_s"),
                    "  prompt tokens/s ", Number(rates, "prompt_tokens_per_s"), "\n");
    absl::StrAppend(&text, "first token ms p50 ", Number(rates["ttft_ms"], "p50"), " p99 ",
                    Number(rates["ttft_ms"], "p99"), "  between tokens ms p50 ",
                    Number(rates["inter_token_ms"], "p50"), " p99 ",
                    Number(rates["inter_token_ms"], "p99"), "\n");
  }
  absl::StrAppendFormat(&text, "\n%-9s %-24s %-11s %7s %7s %7s %9s %6s %8s %9s %9s\n", "ROLE",
                        "ADDRESS", "STATE", "FLIGHT", "RUNNING", "WAITING", "QUEUED", "KV",
                        "STEPS/S", "PREFILL/S", "TOKENS/S");
  for (const Json& worker : live["workers"]) absl::StrAppend(&text, WorkerLine(worker), "\n");
  return text;
}

Json RequestsJson(const v1::ListRequestsResponse& requests, absl::Time now) {
  Json list = Json::array();
  for (const v1::RequestSummary& request : requests.requests()) {
    const absl::Time start = absl::FromUnixSeconds(request.start_time().seconds()) +
                             absl::Nanoseconds(request.start_time().nanos());
    list.push_back({{"request_id", request.request_id()},
                    {"model", request.model()},
                    {"age_s", absl::ToDoubleSeconds(now - start)},
                    {"phase", request.phase()},
                    {"prompt_tokens", request.prompt_tokens()},
                    {"completion_tokens", request.completion_tokens()},
                    {"worker", request.worker_instance_id()}});
  }
  return {{"total", requests.total()}, {"requests", std::move(list)}};
}

std::string RequestsTable(const Json& requests) {
  std::string text = absl::StrFormat("%-36s %-16s %9s %-10s %8s %8s  %s\n", "REQUEST", "MODEL",
                                     "AGE S", "PHASE", "PROMPT", "ANSWER", "WORKER");
  for (const Json& one : requests["requests"]) {
    absl::StrAppendFormat(&text, "%-36s %-16s %9.1f %-10s %8.0f %8.0f  %s\n",
                          one["request_id"].get<std::string>(), one["model"].get<std::string>(),
                          one["age_s"].get<double>(), one["phase"].get<std::string>(),
                          one["prompt_tokens"].get<double>(),
                          one["completion_tokens"].get<double>(), one["worker"].get<std::string>());
  }
  const auto shown = requests["requests"].size();
  if (shown < requests["total"].get<uint64_t>()) {
    absl::StrAppend(&text, "... ", shown, " of ", requests["total"].get<uint64_t>(), "\n");
  }
  return text;
}

}  // namespace qwenserve
