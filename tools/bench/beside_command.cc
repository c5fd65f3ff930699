// qwenserve_bench beside: one long prompt beside chats. How long the chats wait between two tokens,
// before and while the prompt is computed, and how much longer the prompt waits for its first token
// than it would alone.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/runtime/engine.h"
#include "tools/bench/bench_command.h"
#include "tools/bench/step_log.h"

namespace qwenserve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kChatPrompt = 64;
constexpr size_t kTokensAlone = 64;  // of each chat before the long prompt comes

struct BesideSettings {
  EngineFlags flags;
  int64_t prompt = 8192;
  int64_t chats = 4;
  double max_step_ms = 0;
  int repeat = 3;
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

// When each sequence got its tokens. Thread-safe.
class TokenTimes {
 public:
  void OnStep(const StepEvents& events) {
    const Clock::time_point now = Clock::now();
    std::lock_guard<std::mutex> lock(mutex_);
    for (const SequenceEvent& event : events.sequences) {
      if (!event.ids.empty()) times_[event.sequence].push_back(now);
      if (event.finish != FinishReason::kNone) ended_[event.sequence] = event.error;
    }
    changed_.notify_all();
  }

  // Waits for so many tokens; an error when the sequence ends before that.
  absl::StatusOr<std::vector<Clock::time_point>> Wait(uint64_t sequence, size_t tokens) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock,
                  [&] { return times_[sequence].size() >= tokens || ended_.count(sequence) > 0; });
    if (times_[sequence].size() >= tokens) return times_[sequence];
    QS_RETURN_IF_ERROR(ended_[sequence]);
    return absl::InternalError(absl::StrCat("a sequence ended before token ", tokens));
  }

  void WaitForEnd(uint64_t sequence) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return ended_.count(sequence) > 0; });
  }

 private:
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<uint64_t, std::vector<Clock::time_point>> times_;
  std::map<uint64_t, absl::Status> ended_;
};

class BesideMeasurement {
 public:
  explicit BesideMeasurement(const BesideSettings& settings)
      : settings_(settings),
        // A step with both has at least 16 rows of the prompt, and few have none.
        chat_tokens_(static_cast<int64_t>(2 * kTokensAlone) + settings.prompt / 8) {}

  absl::StatusOr<Json> Run() {
    QS_ASSIGN_OR_RETURN(EngineOptions options, OptionsFrom(settings_.flags));
    options.max_running = settings_.chats + 1;
    options.max_model_len = std::max(settings_.prompt + 2, kChatPrompt + chat_tokens_);
    options.max_step = absl::Milliseconds(settings_.max_step_ms);
    QS_ASSIGN_OR_RETURN(
        engine_,
        Engine::Create(
            options, [this](const StepEvents& events) { times_.OnStep(events); }, nullptr));
    for (int i = 0; i < settings_.repeat; ++i) {
      QS_ASSIGN_OR_RETURN(const double solo, TimeToFirstToken());
      QS_RETURN_IF_ERROR(Beside(solo));
    }
    Json result = MachineAndOptions(settings_.flags);
    result["threads"] = engine_->info().num_threads;
    result["prompt"] = settings_.prompt;
    result["chats"] = settings_.chats;
    result["max_step_ms"] = settings_.max_step_ms;
    result["first_token_alone_s"] = Median(solo_);
    result["first_token_beside_s"] = Median(beside_);
    result["first_token_ratio"] = Median(ratio_);
    result["first_token_ratio_all"] = ratio_;
    result["inter_token_alone_ms"] = Json{{"median", 1e3 * Quantile(alone_gaps_, 0.5)},
                                          {"p90", 1e3 * Quantile(alone_gaps_, 0.9)}};
    result["inter_token_beside_ms"] = Json{{"median", 1e3 * Quantile(beside_gaps_, 0.5)},
                                           {"p90", 1e3 * Quantile(beside_gaps_, 0.9)},
                                           {"max", 1e3 * Quantile(beside_gaps_, 1)}};
    return result;
  }

 private:
  absl::StatusOr<uint64_t> Submit(int64_t prompt, int64_t tokens) {
    return engine_->Submit(
        BenchRequest(engine_->info().config.vocab_size, prompt, tokens, ++seed_));
  }

  absl::StatusOr<double> TimeToFirstToken() {
    const Clock::time_point began = Clock::now();
    QS_ASSIGN_OR_RETURN(const uint64_t sequence, Submit(settings_.prompt, 1));
    QS_ASSIGN_OR_RETURN(const auto times, times_.Wait(sequence, 1));
    return Seconds(times[0] - began);
  }

  absl::Status Beside(double solo) {
    std::vector<uint64_t> chats;
    for (int64_t i = 0; i < settings_.chats; ++i) {
      QS_ASSIGN_OR_RETURN(const uint64_t chat, Submit(kChatPrompt, chat_tokens_));
      chats.push_back(chat);
    }
    for (uint64_t chat : chats) QS_RETURN_IF_ERROR(times_.Wait(chat, kTokensAlone).status());
    const Clock::time_point came = Clock::now();
    QS_ASSIGN_OR_RETURN(const double beside, TimeToFirstToken());
    const Clock::time_point answered = Clock::now();
    for (uint64_t chat : chats) {
      QS_ASSIGN_OR_RETURN(const std::vector<Clock::time_point> times, times_.Wait(chat, 1));
      engine_->Cancel(chat);
      // The first tokens fall among the other chats' prefills.
      for (size_t i = kTokensAlone / 2; i < times.size() && times[i] <= answered; ++i) {
        (times[i] < came ? alone_gaps_ : beside_gaps_).push_back(Seconds(times[i] - times[i - 1]));
      }
    }
    for (uint64_t chat : chats) times_.WaitForEnd(chat);
    if (alone_gaps_.empty() || beside_gaps_.empty()) {
      return absl::FailedPreconditionError("--prompt is too short: no token of a chat beside it");
    }
    solo_.push_back(solo);
    beside_.push_back(beside);
    ratio_.push_back(beside / solo);
    return absl::OkStatus();
  }

  const BesideSettings settings_;
  const int64_t chat_tokens_;
  int64_t seed_ = 0;
  TokenTimes times_;
  std::vector<double> solo_, beside_, ratio_;     // of each repeat
  std::vector<double> alone_gaps_, beside_gaps_;  // seconds between two tokens of a chat
  std::unique_ptr<Engine> engine_;                // last: it calls back until it is gone
};

}  // namespace

void AddBesideCommand(CLI::App& app, BenchOutput* output) {
  auto settings = std::make_shared<BesideSettings>();
  CLI::App& command = *app.add_subcommand("beside", "one long prompt beside chats");
  AddEngineFlags(command, &settings->flags);
  command.add_option("--prompt", settings->prompt, "tokens of the long prompt")
      ->check(CLI::Range(512, 1 << 20))
      ->capture_default_str();
  command.add_option("--chats", settings->chats, "sequences that decode meanwhile")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--max-step-ms", settings->max_step_ms, "as of the generator")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--repeat", settings->repeat, "pairs of alone and beside")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command.callback([settings, output] {
    absl::StatusOr<Json> result = BesideMeasurement(*settings).Run();
    output->status = result.status();
    if (result.ok()) output->result = *std::move(result);
  });
}

}  // namespace qwenserve
