// qwenserve_bench step: what a decode step costs outside the kernels: scheduler, batch, runner,
// events, thread hand-overs. The engine is the real one, its backend computes nothing.
#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/runtime/engine.h"
#include "tools/bench/bench_command.h"
#include "tools/bench/noop_backend.h"
#include "tools/bench/step_log.h"

namespace qwenserve {
namespace {

struct StepSettings {
  EngineFlags flags;
  std::vector<int64_t> batches = {1, 64};
  int64_t prompt = 512;
  int64_t decode = 2000;
  int repeat = 5;
  double busy_us = 0;
};

// The mean of the steps that the whole batch takes part in: events are handed over by another
// thread, several at a time when steps are this short, so single distances mean nothing.
absl::StatusOr<double> StepSeconds(Engine& engine, StepLog& log, const StepSettings& settings,
                                   int64_t batch, int64_t* seed) {
  {
    const std::unique_lock<std::mutex> hold = log.HoldSteps();
    for (int64_t i = 0; i < batch; ++i) {
      const SequenceRequest request =
          BenchRequest(engine.info().config.vocab_size, settings.prompt, settings.decode, ++*seed);
      QS_RETURN_IF_ERROR(engine.Submit(request).status());
    }
  }
  absl::Status error;
  std::vector<StepLog::Step> steps = log.Take(batch, &error);
  QS_RETURN_IF_ERROR(error);
  const auto is_partial = [batch](const StepLog::Step& step) { return step.tokens != batch; };
  steps.erase(std::remove_if(steps.begin(), steps.end(), is_partial), steps.end());
  if (steps.size() < 2) {
    return absl::FailedPreconditionError("no two steps had the whole batch: --decode is too small");
  }
  return std::chrono::duration<double>(steps.back().time - steps.front().time).count() /
         static_cast<double>(steps.size() - 1);
}

absl::StatusOr<Json> Repeat(Engine& engine, StepLog& log, const StepSettings& settings,
                            int64_t batch, int64_t* seed) {
  std::vector<double> seconds;
  for (int i = 0; i < settings.repeat; ++i) {
    QS_ASSIGN_OR_RETURN(const double one, StepSeconds(engine, log, settings, batch, seed));
    seconds.push_back(one);
  }
  return Json{{"batch", batch}, {"seconds", Median(seconds)}, {"seconds_all", seconds}};
}

absl::StatusOr<Json> MeasureStep(const StepSettings& settings) {
  QS_ASSIGN_OR_RETURN(EngineOptions options, OptionsFrom(settings.flags));
  const absl::Duration busy = absl::Microseconds(settings.busy_us);
  options.wrap_backend = [busy](std::unique_ptr<Backend> device) -> std::unique_ptr<Backend> {
    return std::make_unique<NoopBackend>(std::move(device), busy);
  };
  // All prefills in a few steps, so that the whole batch decodes together for long.
  options.max_batch_tokens = 4096;
  options.max_step = absl::Hours(1);
  options.max_running = *std::max_element(settings.batches.begin(), settings.batches.end());
  options.max_model_len = settings.prompt + settings.decode + 1;
  StepLog log;
  QS_ASSIGN_OR_RETURN(
      const std::unique_ptr<Engine> engine,
      Engine::Create(
          options, [&log](const StepEvents& events) { log.OnStep(events); }, nullptr));
  Json result = MachineAndOptions(settings.flags);
  result["prompt"] = settings.prompt;
  result["decode"] = settings.decode;
  result["busy_us"] = settings.busy_us;
  result["step_overhead"] = Json::array();
  int64_t seed = 0;
  for (const int64_t batch : settings.batches) {
    QS_ASSIGN_OR_RETURN(Json line, Repeat(*engine, log, settings, batch, &seed));
    result["step_overhead"].push_back(std::move(line));
  }
  return result;
}

}  // namespace

void AddStepCommand(CLI::App& app, BenchOutput* output) {
  auto settings = std::make_shared<StepSettings>();
  CLI::App& command = *app.add_subcommand("step", "time of a decode step outside the kernels");
  AddEngineFlags(command, &settings->flags);
  command.add_option("--batch", settings->batches, "sequences decoded together")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--prompt", settings->prompt, "tokens of a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--decode", settings->decode, "tokens that each sequence draws")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--busy-us", settings->busy_us,
                  "microseconds that the device pretends to work on a step")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command.add_option("--repeat", settings->repeat, "readings, of which the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.callback([settings, output] {
    absl::StatusOr<Json> result = MeasureStep(*settings);
    output->status = result.status();
    if (result.ok()) output->result = *std::move(result);
  });
}

}  // namespace qwenserve
