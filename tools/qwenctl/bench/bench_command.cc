#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "tools/qwenctl/bench/bench_options.h"
#include "tools/qwenctl/bench/bench_plan.h"
#include "tools/qwenctl/bench/bench_report.h"
#include "tools/qwenctl/bench/bench_runner.h"
#include "tools/qwenctl/bench/bench_transport.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/interrupt_watcher.h"

namespace qwenserve {
namespace {

template <typename Spec>
std::string CheckSpec(const std::string& text) {
  const auto parsed = Spec::Parse(text);
  return parsed.ok() ? "" : std::string(parsed.status().message());
}

void DrawProgress(const BenchRunner& runner, const BenchRecorder& recorder) {
  constexpr int kWidth = 30;
  const int full = static_cast<int>(runner.Progress() * kWidth);
  std::cerr << absl::StrFormat("\r[%s%s] %d sent, %d ended, %d failed, %d tokens ",
                               std::string(full, '#'), std::string(kWidth - full, ' '),
                               recorder.started(), recorder.ended(),
                               recorder.ended() - recorder.succeeded(), recorder.tokens())
            << std::flush;
}

int RunBench(BenchOptions options) {
  if (options.num_requests == 0 && options.duration_seconds <= 0) options.num_requests = 100;
  const auto limits = GoodputLimits::Parse(options.goodput);
  if (!limits.ok()) return ReportError(limits.status());
  absl::Mutex mutex;
  BenchRunner* running = nullptr;  // under the mutex
  bool interrupted = false;
  InterruptWatcher watcher([&] {
    absl::MutexLock lock(&mutex);
    if (std::exchange(interrupted, true) || running == nullptr) _exit(kExitInterrupted);
    running->Stop();
  });
  const auto connection = Connection::Open(options.connection);
  if (!connection.ok()) return ReportError(connection.status());
  const auto transport = options.api == "http" ? MakeHttpTransport(options, *connection)
                                               : MakeGrpcTransport(options, *connection);
  const auto target = transport->Find(options.model);
  if (!target.ok()) return ReportError(target.status());
  auto plan = BenchPlan::Create(options, target->vocab_size);
  if (!plan.ok()) return ReportError(plan.status());

  BenchRecorder recorder(*limits);
  BenchRunner runner(options, *std::move(plan), target->model, transport.get(), &recorder);
  {
    absl::MutexLock lock(&mutex);
    running = &runner;
  }
  const bool progress = options.progress && isatty(STDERR_FILENO) == 1;
  const absl::Duration cpu_before = OwnCpuTime();
  runner.Run([&] {
    if (progress) DrawProgress(runner, recorder);
  });
  if (progress) std::cerr << std::endl;
  const BenchReport report(options, recorder, runner.elapsed(), OwnCpuTime() - cpu_before);
  {
    absl::MutexLock lock(&mutex);
    running = nullptr;
  }
  if (options.output == "json") {
    std::cout << report.ToJson() << std::endl;
  } else {
    std::cout << report.Table() << std::flush;
  }
  if (const std::string doubt = report.Doubt(); !doubt.empty()) {
    std::cerr << "qwenctl: doubtful: " << doubt << std::endl;
  }
  if (interrupted) return kExitInterrupted;
  if (!report.limits_kept()) return kExitLimit;
  return recorder.succeeded() > 0 ? kExitOk : kExitFailed;
}

void AddLoadFlags(CLI::App& command, BenchOptions* options) {
  CLI::Option* rate = command.add_option(
      "--rate", options->rate, "Requests per second, Poisson, whatever becomes of others");
  rate->check(CLI::Range(0.001, 1e6));
  command.add_option("--concurrency", options->concurrency, "Requests at a time, without --rate")
      ->check(CLI::Range(1u, 100000u))
      ->excludes(rate)
      ->capture_default_str();
  command.add_option("--num-requests", options->num_requests, "Default: 100 without --duration");
  command.add_option("--duration", options->duration_seconds, "Seconds in which requests begin")
      ->check(CLI::Range(0.001, 1e6));
  command
      .add_option("--connections", options->connections,
                  "Of gRPC, each takes 1,024 streams; HTTP has one for each request in flight")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  command.add_option("--seed", options->seed, "Same seed, same requests")->capture_default_str();
}

void AddRequestFlags(CLI::App& command, BenchOptions* options) {
  const CLI::Validator length(CheckSpec<LengthSpec>, "LENGTH", "length");
  command
      .add_option("--prompt-tokens", options->prompt_tokens,
                  "128, 100:2000 (uniform) or lognormal:MEDIAN:SIGMA")
      ->check(length)
      ->capture_default_str();
  command.add_option("--max-tokens", options->max_tokens, "Of an answer, likewise")
      ->check(length)
      ->capture_default_str();
  command
      .add_option("--prefix-tokens", options->prefix_tokens,
                  "Of each prompt the first so many are the same within a group")
      ->check(CLI::Range(0u, 1u << 20));
  command.add_option("--prefix-groups", options->prefix_groups, "Different beginnings")
      ->check(CLI::Range(1u, 10000u))
      ->capture_default_str();
  command.add_flag("--chat", options->chat,
                   "The chat API; prompts are then words, of about so many tokens");
  command.add_flag("--stop-at-eos", options->stop_at_eos,
                   "Answers may end by themselves, not only at --max-tokens");
  command.add_option("--priority", options->priority, "Of the requests; gRPC only");
}

}  // namespace

void AddBenchCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand(
      "bench", "Load a gateway: latencies from the intended send time, tokens/s, goodput");
  auto options = std::make_shared<BenchOptions>();
  AddConnectionFlags(*command, "Gateway's port of the --api", &options->connection);
  command->add_option("--api", options->api, "grpc or http")
      ->check(CLI::IsMember({"grpc", "http"}))
      ->capture_default_str();
  command->add_option("--model", options->model, "Served model name; may be left out for one");
  command->add_option("--timeout", options->timeout_seconds, "Seconds for one request")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
  AddLoadFlags(*command, options.get());
  AddRequestFlags(*command, options.get());
  const CLI::Validator goodput(CheckSpec<GoodputLimits>, "LIMITS", "limits");
  command
      ->add_option("--goodput", options->goodput,
                   "Limits of a good request, such as ttft:500ms,itl:50ms,e2e:10s")
      ->check(goodput);
  command
      ->add_option("--min-goodput", options->min_goodput,
                   "Share of good requests, below which the exit status is 7")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--output", options->output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->add_flag("!--no-progress", options->progress, "No progress bar on a terminal");
  command->callback([options, exit_code] { *exit_code = RunBench(*options); });
}

}  // namespace qwenserve
