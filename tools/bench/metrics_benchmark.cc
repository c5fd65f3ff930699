// What metrics cost the processes that record them, and what a scrape costs without its transport.
//   metrics_benchmark [--benchmark_filter=...]
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/metrics/metrics_compat.h"
#include "services/gateway/metrics/edge_metrics.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/generator/sequence_timing.h"

namespace qwenserve {
namespace {

// A step of so many sequences, of which one in 64 ends and another one has its first token.
void GeneratorStep(benchmark::State& state) {
  Metrics registry("generator");
  GeneratorMetrics metrics(registry, "model");
  SequenceTiming timing(&metrics);
  const size_t sequences = static_cast<size_t>(state.range(0));
  absl::Time now = absl::UnixEpoch();
  std::vector<SequenceTimes> times(sequences);
  SequenceEvent token;
  token.ids = {7};
  SequenceEvent last = token;
  last.finish = FinishReason::kLength;
  StepEvents step;
  step.duration = absl::Milliseconds(10);
  step.rows = step.batch = state.range(0);
  size_t turn = 0;
  for (auto _ : state) {
    now += absl::Milliseconds(10);
    for (size_t i = 0; i < sequences; ++i) {
      const bool ends = (i + turn) % 64 == 0;
      timing.OnEvent(ends ? last : token, 1000, now, &times[i]);
      if (!ends) continue;
      times[i] = SequenceTimes();
      times[i].submitted = now - absl::Seconds(1);
    }
    timing.OnStepEnd(step);
    ++turn;
  }
}
BENCHMARK(GeneratorStep)->Arg(1)->Arg(64)->Arg(256)->Arg(1024)->Unit(benchmark::kMicrosecond);

// What a gateway records of a token on its way to a client; threads are as many event loops.
void GatewayToken(benchmark::State& state) {
  static Metrics registry("gateway");
  static GatewayMetrics gateway(registry);
  ModelMetrics& metrics = gateway.OfModel("model");
  for (auto _ : state) {
    metrics.inter_token.Observe(0.021);
    metrics.completion_tokens.Increment(1);
  }
}
BENCHMARK(GatewayToken)->Threads(1)->Threads(4);

// Of a request from its arrival to its end, without its tokens.
void GatewayRequest(benchmark::State& state) {
  Metrics registry("gateway");
  GatewayMetrics gateway(registry);
  for (auto _ : state) {
    ModelMetrics& metrics = gateway.OfModel("model");
    metrics.actual_wait.Observe(0.001);
    metrics.prompt_tokens.Increment(1000);
    metrics.prompt_tokens_per_request.Observe(1000);
    metrics.time_to_first_token.Observe(0.2);
    gateway.requests[GatewayMetrics::kStreamChat].Increment(absl::StatusCode::kOk);
    gateway.duration[GatewayMetrics::kStreamChat]->Observe(3);
    metrics.duration.Observe(3);
    metrics.completion_tokens_per_request.Observe(200);
    metrics.cached_prompt_tokens.Increment(512);
    metrics.finished[ModelMetrics::kStop]->Increment();
  }
}
BENCHMARK(GatewayRequest);

// The text of all of a gateway's metrics; the first argument is the number of models.
void GatewayScrape(benchmark::State& state) {
  Metrics registry("gateway");
  ServerMetrics server(registry);
  TlsMetrics tls(registry, "tls");
  AuthMetrics auth(registry);
  HttpMetrics http(registry);
  GatewayMetrics gateway(registry);
  for (int64_t i = 0; i < state.range(0); ++i) gateway.OfModel(absl::StrCat("model-", i));
  if (state.range(1) != 0) registry.SetAliases(VllmAliases);
  size_t bytes = 0;
  for (auto _ : state) bytes = registry.Scrape().size();
  state.counters["bytes"] = static_cast<double>(bytes);
}
BENCHMARK(GatewayScrape)
    ->ArgNames({"models", "vllm"})
    ->Args({1, 0})
    ->Args({1, 1})
    ->Args({16, 0})
    ->Args({16, 1})
    ->Unit(benchmark::kMillisecond);

void GeneratorScrape(benchmark::State& state) {
  Metrics registry("generator");
  ServerMetrics server(registry);
  GeneratorMetrics generator(registry, "model");
  RankMetrics ranks(registry, "model", std::vector<RankProgress>(8));
  if (state.range(0) != 0) registry.SetAliases(VllmAliases);
  for (auto _ : state) benchmark::DoNotOptimize(registry.Scrape());
}
BENCHMARK(GeneratorScrape)->ArgName("vllm")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace qwenserve

BENCHMARK_MAIN();
