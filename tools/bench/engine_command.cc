// qwenserve_bench engine: prefill and decode speed of one replica, without any network.
//
// Prefill: from Submit to the first token of one sequence. Decode: the steps in which `batch`
// sequences draw a token each, sampling and scheduling included. Each repeat stands between two
// readings of the machine's streaming bandwidth by as many threads. On a GPU the copy bandwidth is
// read once, before the model takes its memory.
#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/runtime/engine.h"
#include "tools/bench/bench_command.h"
#include "tools/bench/gpu_limits.h"
#include "tools/bench/machine_limits.h"
#include "tools/bench/step_log.h"

namespace qwenserve {
namespace {

struct EngineSettings {
  EngineFlags flags;
  int64_t prompt = 512;
  int64_t decode = 64;
  int64_t batch = 1;
  int repeat = 5;
};

class EngineMeasurement {
 public:
  explicit EngineMeasurement(const EngineSettings& settings) : settings_(settings) {}

  absl::StatusOr<Json> Run() {
    QS_RETURN_IF_ERROR(Load());
    QS_RETURN_IF_ERROR(Repeat());  // warms up
    prefill_.clear();
    decode_.clear();
    if (!copy_.empty()) {
      for (int i = 0; i < settings_.repeat; ++i) QS_RETURN_IF_ERROR(Repeat());
      return Result("copy", copy_);
    }
    std::vector<double> read = StreamingReadPasses(threads_);
    for (int i = 0; i < settings_.repeat; ++i) {
      QS_RETURN_IF_ERROR(Repeat());
      for (double pass : StreamingReadPasses(threads_)) read.push_back(pass);
    }
    return Result("streaming_read", read);
  }

 private:
  absl::Status Load() {
    QS_ASSIGN_OR_RETURN(EngineOptions options, OptionsFrom(settings_.flags));
    if (options.device == "cuda") {
      QS_ASSIGN_OR_RETURN(copy_, GpuCopyPasses(0));
    }
    // Not more memory than the measurement needs.
    options.max_running = settings_.batch;
    // Prefills in one step each, so that the whole batch decodes together for long.
    options.max_batch_tokens = std::max<int64_t>(512, settings_.prompt);
    options.max_step = absl::Hours(1);
    options.max_model_len = settings_.prompt + settings_.decode + 1;
    const StepLog::Clock::time_point began = StepLog::Clock::now();
    QS_ASSIGN_OR_RETURN(
        engine_, Engine::Create(
                     options, [this](const StepEvents& events) { log_.OnStep(events); }, nullptr));
    load_seconds_ = Seconds(StepLog::Clock::now() - began);
    threads_ = engine_->info().num_threads;
    return absl::OkStatus();
  }

  absl::Status Repeat() {
    QS_RETURN_IF_ERROR(Prefill());
    return settings_.decode > 0 ? Decode() : absl::OkStatus();
  }

  absl::Status Submit(int64_t tokens) {
    return engine_
        ->Submit(BenchRequest(engine_->info().config.vocab_size, settings_.prompt, tokens, ++seed_))
        .status();
  }

  absl::Status Prefill() {
    const StepLog::Clock::time_point began = StepLog::Clock::now();
    QS_RETURN_IF_ERROR(Submit(1));
    absl::Status error;
    const std::vector<StepLog::Step> steps = log_.Take(1, &error);
    prefill_.push_back(static_cast<double>(settings_.prompt) / Seconds(steps.back().time - began));
    return error;
  }

  absl::Status Decode() {
    {
      const std::unique_lock<std::mutex> hold = log_.HoldSteps();
      for (int64_t i = 0; i < settings_.batch; ++i) {
        QS_RETURN_IF_ERROR(Submit(settings_.decode + 1));
      }
    }
    absl::Status error;
    const std::vector<StepLog::Step> steps = log_.Take(settings_.batch, &error);
    QS_RETURN_IF_ERROR(error);
    double seconds = 0;
    int64_t count = 0;
    for (size_t i = 1; i < steps.size(); ++i) {
      if (steps[i].tokens != settings_.batch || steps[i - 1].tokens != settings_.batch) continue;
      seconds += Seconds(steps[i].time - steps[i - 1].time);
      ++count;
    }
    if (count == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "no two steps in a row drew ", settings_.batch, " tokens: --decode is too small"));
    }
    decode_.push_back(static_cast<double>(settings_.batch * count) / seconds);
    return absl::OkStatus();
  }

  // `limit`: what the machine's memory was measured by, in `passes`.
  Json Result(const std::string& limit, const std::vector<double>& passes) const {
    const EngineInfo& info = engine_->info();
    Json result = MachineAndOptions(settings_.flags);
    result["threads"] = threads_;
    result["fingerprint"] = info.fingerprint;
    result["load_seconds"] = load_seconds_;
    result["prompt"] = settings_.prompt;
    result["decode"] = settings_.decode;
    result["batch"] = settings_.batch;
    result["prefill_tok_s"] = Median(prefill_);
    result["prefill_tok_s_all"] = prefill_;
    result[limit + "_bytes_s"] = Median(passes);
    result[limit + "_bytes_s_all"] = passes;
    if (settings_.decode == 0) return result;
    result["decode_tok_s"] = Median(decode_);
    result["decode_tok_s_all"] = decode_;
    if (info.tp > 1) return result;  // the bytes are known of rank 0 alone
    // Each step reads the keys and values of all positions so far; over the measured steps that is
    // the mean of the first and the last.
    const double positions =
        static_cast<double>(settings_.prompt) + static_cast<double>(settings_.decode) / 2 + 1;
    const double kv_bytes =
        positions * static_cast<double>(settings_.batch * info.kv_bytes_per_token);
    const double step_bytes = static_cast<double>(info.step_weight_bytes) + kv_bytes;
    const double steps_per_second = Median(decode_) / static_cast<double>(settings_.batch);
    result["weight_bytes_per_step"] = info.step_weight_bytes;
    result["kv_bytes_per_step"] = kv_bytes;
    result["decode_bytes_s"] = step_bytes * steps_per_second;
    result["decode_of_" + limit] = step_bytes * steps_per_second / Median(passes);
    return result;
  }

  const EngineSettings settings_;
  int threads_ = 1;
  double load_seconds_ = 0;
  int64_t seed_ = 0;
  std::vector<double> prefill_, decode_;  // tokens per second of each repeat
  std::vector<double> copy_;              // of the GPU, bytes per second; empty on the CPU
  StepLog log_;
  std::unique_ptr<Engine> engine_;  // last: it calls back until it is gone
};

}  // namespace

void AddEngineCommand(CLI::App& app, BenchOutput* output) {
  auto settings = std::make_shared<EngineSettings>();
  CLI::App& command = *app.add_subcommand("engine", "prefill and decode speed of one replica");
  AddEngineFlags(command, &settings->flags);
  command.add_option("--prompt", settings->prompt, "tokens of a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--decode", settings->decode, "tokens that each sequence draws; 0 = none")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_option("--batch", settings->batch, "sequences decoded together")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--repeat", settings->repeat, "readings, of which the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.callback([settings, output] {
    absl::StatusOr<Json> result = EngineMeasurement(*settings).Run();
    output->status = result.status();
    if (result.ok()) output->result = *std::move(result);
  });
}

}  // namespace qwenserve
