// Prefill and decode speed of one replica, without any network: tokens per second as one JSON
// object on stdout.
//
//   engine_benchmark --model DIR [--threads N] [--tp N] [--tp-mode threads|processes]
//                    [--prompt 32,512] [--batch 1,8] [--tokens 64] [--repeat 3]
//
// Prefill: from Submit to the first token of one sequence. Decode: over all steps in which `batch`
// sequences draw a token each. The median of the repeats is reported.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "engine/base/json_reader.h"
#include "engine/runtime/engine.h"
#include "engine/runtime/follower.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Notes when which step delivered how many tokens.
class StepLog {
 public:
  struct Step {
    Clock::time_point time;
    size_t sequences = 0;
  };

  void OnStep(const StepEvents& events) {
    std::lock_guard<std::mutex> lock(mutex_);
    Step step{Clock::now(), 0};
    for (const SequenceEvent& event : events.sequences) {
      step.sequences += event.ids.size();
      if (event.finish != FinishReason::kNone) ++finished_;
    }
    steps_.push_back(step);
    changed_.notify_all();
  }

  // The steps until `count` sequences have ended.
  std::vector<Step> Take(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return finished_ >= count; });
    finished_ = 0;
    return std::exchange(steps_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Step> steps_;
  size_t finished_ = 0;
};

SequenceRequest Request(const Engine& engine, int64_t prompt, int64_t tokens, int seed) {
  SequenceRequest request;
  for (int64_t i = 0; i < prompt; ++i) {
    request.prompt_ids.push_back(
        static_cast<int32_t>((i * 7919 + seed * 104729 + 11) % engine.info().config.vocab_size));
  }
  request.sampling.temperature = 0;
  request.sampling.max_tokens = tokens;
  request.sampling.ignore_eos = true;
  request.credit = tokens;
  return request;
}

absl::StatusOr<double> PrefillSeconds(Engine& engine, StepLog& log, int64_t prompt, int seed) {
  const Clock::time_point began = Clock::now();
  const auto sequence = engine.Submit(Request(engine, prompt, 1, seed));
  if (!sequence.ok()) return sequence.status();
  return Seconds(log.Take(1).back().time - began);
}

absl::StatusOr<double> DecodeStepSeconds(Engine& engine, StepLog& log, size_t batch,
                                         int64_t tokens) {
  for (size_t i = 0; i < batch; ++i) {
    const auto sequence = engine.Submit(Request(engine, 16, tokens, static_cast<int>(i)));
    if (!sequence.ok()) return sequence.status();
  }
  const std::vector<StepLog::Step> steps = log.Take(batch);
  std::vector<double> seconds;
  for (size_t i = 1; i < steps.size(); ++i) {
    if (steps[i].sequences == batch && steps[i - 1].sequences == batch) {
      seconds.push_back(Seconds(steps[i].time - steps[i - 1].time));
    }
  }
  if (seconds.empty()) return absl::FailedPreconditionError("too few tokens for this batch");
  double sum = 0;
  for (double s : seconds) sum += s;
  return sum / static_cast<double>(seconds.size());
}

struct Settings {
  EngineOptions engine;
  std::vector<int64_t> prompts = {32, 512};
  std::vector<int64_t> batches = {1, 8};
  int64_t tokens = 64;
  int repeat = 3;
};

absl::StatusOr<Json> Measure(const Settings& settings) {
  StepLog log;
  const Clock::time_point began = Clock::now();
  auto engine = Engine::Create(
      settings.engine, [&log](const StepEvents& events) { log.OnStep(events); }, nullptr);
  if (!engine.ok()) return engine.status();
  Json result;
  result["model"] = settings.engine.model_dir;
  result["tp"] = settings.engine.tp;
  result["tp_mode"] = settings.engine.rank_mode == RankMode::kThreads ? "threads" : "processes";
  result["threads"] = settings.engine.num_threads;
  result["fingerprint"] = (*engine)->info().fingerprint;
  result["load_seconds"] = Seconds(Clock::now() - began);
  result["prefill"] = Json::array();
  result["decode"] = Json::array();
  for (int64_t prompt : settings.prompts) {
    std::vector<double> seconds;
    for (int i = 0; i < settings.repeat; ++i) {
      auto one = PrefillSeconds(**engine, log, prompt, i);
      if (!one.ok()) return one.status();
      seconds.push_back(*one);
    }
    result["prefill"].push_back(
        {{"prompt_tokens", prompt},
         {"seconds", Median(seconds)},
         {"tokens_per_second", static_cast<double>(prompt) / Median(seconds)}});
  }
  for (int64_t batch : settings.batches) {
    std::vector<double> seconds;
    for (int i = 0; i < settings.repeat; ++i) {
      auto one = DecodeStepSeconds(**engine, log, static_cast<size_t>(batch), settings.tokens);
      if (!one.ok()) return one.status();
      seconds.push_back(*one);
    }
    result["decode"].push_back(
        {{"batch", batch},
         {"seconds_per_step", Median(seconds)},
         {"tokens_per_second", static_cast<double>(batch) / Median(seconds)}});
  }
  return result;
}

int Main(int argc, char** argv) {
  Settings settings;
  std::string mode = "threads";
  CLI::App app("Prefill and decode speed of one replica");
  app.add_option("--model", settings.engine.model_dir, "model directory")->required();
  app.add_option("--threads", settings.engine.num_threads, "of all ranks; 0 = what is allowed");
  app.add_option("--tp", settings.engine.tp, "tensor-parallel ranks");
  app.add_option("--tp-mode", mode, "threads or processes")
      ->check(CLI::IsMember({"threads", "processes"}));
  app.add_option("--prompt", settings.prompts, "prompt lengths")->delimiter(',');
  app.add_option("--batch", settings.batches, "sequences decoded together")->delimiter(',');
  app.add_option("--tokens", settings.tokens, "tokens that each of them draws");
  app.add_option("--repeat", settings.repeat, "runs, of which the median counts")
      ->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  settings.engine.rank_binary = "/proc/self/exe";
  settings.engine.rank_mode = mode == "threads" ? RankMode::kThreads : RankMode::kProcesses;
  const auto result = Measure(settings);
  if (!result.ok()) {
    std::cerr << "engine_benchmark: " << result.status().message() << "\n";
    return 1;
  }
  std::cout << result->dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("engine_benchmark"));
  if (qwenserve::IsFollowerCommand(argc, argv)) return qwenserve::RunFollower(argc, argv);
  return qwenserve::Main(argc, argv);
}
