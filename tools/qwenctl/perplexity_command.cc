#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/evaluate/perplexity.h"
#include "engine/loader/checkpoint.h"
#include "engine/runtime/machine_limits.h"
#include "engine/tokenizer/tokenizer.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/interrupt_watcher.h"
#include "tools/qwenctl/text_tokens.h"

namespace qwenserve {
namespace {

// One of the two models.
struct ModelFlags {
  std::string dir;
  std::string weights = "auto";
  std::string kv_format = "bf16";
};

struct PerplexityFlags {
  ModelFlags model;
  ModelFlags against;
  std::string file;
  int64_t sequence_length = 512;
  int64_t max_tokens = 0;  // 0: all
  int num_threads = 1;
  std::string isa = "auto";
  std::string output = "text";

  bool compares() const { return !against.dir.empty(); }
};

constexpr const char* kPerplexityFooter =
    "Cuts the text into windows of --sequence-length tokens, each read without what came before, "
    "and\n"
    "tells how well the model predicts every token but the windows' first: perplexity is\n"
    "exp(mean negative log-likelihood), bits per byte are over the bytes of the tokens predicted.\n"
    "<|im_start|> and other names of control tokens in the text stand for these tokens.\n\n"
    "With --against a second model reads the same text: told are the mean and the largest\n"
    "Kullback-Leibler divergence of the first model's predictions from those of the second, in "
    "nats,\n"
    "and how often both find the same token most likely.\n\n"
    "Examples: qwenctl perplexity /models/Qwen2.5-0.5B text.txt\n"
    "          qwenctl perplexity /models/Qwen2.5-0.5B text.txt --weights int4 \\\n"
    "              --against /models/Qwen2.5-0.5B\n"
    "          qwenctl perplexity /models/Qwen2.5-0.5B-int4 text.txt --against "
    "/models/Qwen2.5-0.5B";

// A model that is ready to read.
struct Loaded {
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<LogitRunner> runner;
};

absl::StatusOr<Loaded> Load(const ModelFlags& flags, const PerplexityFlags& common) {
  Loaded loaded;
  QS_ASSIGN_OR_RETURN(loaded.checkpoint, Checkpoint::Open(flags.dir));
  const int64_t longest = loaded.checkpoint->config().max_positions;
  if (common.sequence_length > longest) {
    return absl::InvalidArgumentError(absl::StrCat("--sequence-length is ", common.sequence_length,
                                                   ", but ", flags.dir, " has ", longest,
                                                   " positions"));
  }
  LogitRunnerOptions options;
  QS_ASSIGN_OR_RETURN(options.weights, ParseWeightChoice(flags.weights));
  options.kv_format = *KvFormatFromName(flags.kv_format);
  options.num_threads = common.num_threads;
  options.isa = common.isa;
  options.max_length = common.sequence_length;
  QS_ASSIGN_OR_RETURN(loaded.runner, LogitRunner::Create(*loaded.checkpoint, options));
  return loaded;
}

// Both read the ids of one tokenizer, so they must agree on what these mean.
absl::Status CheckSameTokens(const Tokenizer& tokenizer, const std::string& other_dir) {
  QS_ASSIGN_OR_RETURN(const auto other, Tokenizer::Load(other_dir));
  if (other->hash() == tokenizer.hash()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--against ", other_dir, " has another tokenizer"));
}

// Bytes of the tokens that are predicted.
int64_t PredictedBytes(const std::vector<int32_t>& ids, int64_t length,
                       const Tokenizer& tokenizer) {
  int64_t bytes = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (static_cast<int64_t>(i) % length == 0) continue;
    bytes += static_cast<int64_t>(tokenizer.TokenBytes(ids[i]).size());
  }
  return bytes;
}

Json ModelJson(const ModelFlags& flags, const LogitRunner& runner, const TextScore& score) {
  Json json;
  json["model"] = flags.dir;
  json["weights"] = runner.WeightFormats();
  json["weight_bytes"] = runner.weight_bytes();
  json["kv_cache"] = flags.kv_format;
  json["perplexity"] = score.perplexity();
  json["tokens_per_second"] = static_cast<double>(score.tokens) / score.seconds;
  return json;
}

Json ResultJson(const PerplexityFlags& flags, const Evaluation& evaluation, int64_t bytes,
                const Loaded& model, const Loaded& against) {
  const TextScore& score = evaluation.model;
  Json json = ModelJson(flags.model, *model.runner, score);
  json["sequence_length"] = flags.sequence_length;
  json["tokens"] = score.tokens;
  json["bits_per_byte"] =
      score.negative_log_likelihood / std::log(2.0) / static_cast<double>(bytes);
  if (!flags.compares()) return json;
  json["against"] = ModelJson(flags.against, *against.runner, evaluation.reference);
  const Divergence& divergence = evaluation.divergence;
  json["mean_kl"] = divergence.kl_sum / static_cast<double>(score.tokens);
  json["max_kl"] = divergence.kl_max;
  json["same_top"] = static_cast<double>(divergence.same_top) / static_cast<double>(score.tokens);
  return json;
}

std::string ModelLine(const Json& json) {
  return absl::StrFormat(
      "%s weights of %.1f MB, %s KV cache, %.0f tokens/s", json["weights"].get<std::string>(),
      json["weight_bytes"].get<double>() / 1e6, json["kv_cache"].get<std::string>(),
      json["tokens_per_second"].get<double>());
}

void PrintText(const Json& json) {
  std::cout << absl::StrFormat("perplexity     %.6g\n", json["perplexity"].get<double>())
            << absl::StrFormat("tokens         %d in windows of %d\n",
                               json["tokens"].get<int64_t>(),
                               json["sequence_length"].get<int64_t>())
            << absl::StrFormat("bits per byte  %.4f\n", json["bits_per_byte"].get<double>())
            << "model          " << ModelLine(json) << "\n";
  if (json.contains("against")) {
    std::cout << "against        " << ModelLine(json["against"]) << "\n"
              << absl::StrFormat("  perplexity   %.6g\n",
                                 json["against"]["perplexity"].get<double>())
              << absl::StrFormat("  divergence   %.4g nats, at most %.4g\n",
                                 json["mean_kl"].get<double>(), json["max_kl"].get<double>())
              << absl::StrFormat("  same top     %.2f %%\n", 100 * json["same_top"].get<double>());
  }
  std::cout << std::flush;
}

void ShowProgress(int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) == 0) return;
  std::cerr << "\r" << done << " of " << total << " tokens" << (done == total ? "\n" : "")
            << std::flush;
}

absl::Status Perplexity(const PerplexityFlags& flags, const std::atomic<bool>& interrupted) {
  QS_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(flags.model.dir));
  QS_ASSIGN_OR_RETURN(TextTokens text, ReadTextTokens(flags.file, *tokenizer));
  if (flags.max_tokens > 0 && static_cast<int64_t>(text.ids.size()) > flags.max_tokens) {
    text.ids.resize(static_cast<size_t>(flags.max_tokens));
  }
  QS_ASSIGN_OR_RETURN(const Loaded model, Load(flags.model, flags));
  Loaded against;
  if (flags.compares()) {
    QS_RETURN_IF_ERROR(CheckSameTokens(*tokenizer, flags.against.dir));
    QS_ASSIGN_OR_RETURN(against, Load(flags.against, flags));
  }
  ThreadPool pool(flags.num_threads, {});
  QS_ASSIGN_OR_RETURN(const Evaluation evaluation,
                      Evaluate(text.ids, flags.sequence_length, *model.runner, against.runner.get(),
                               pool, ShowProgress, [&] { return interrupted.load(); }));
  const Json json =
      ResultJson(flags, evaluation, PredictedBytes(text.ids, flags.sequence_length, *tokenizer),
                 model, against);
  if (flags.output == "json") {
    std::cout << json.dump() << std::endl;
  } else {
    PrintText(json);
  }
  return absl::OkStatus();
}

int RunPerplexity(const PerplexityFlags& flags) {
  std::atomic<bool> interrupted{false};
  InterruptWatcher watcher([&] { interrupted = true; });
  const absl::Status status = Perplexity(flags, interrupted);
  return status.ok() ? kExitOk : ReportError(status);
}

void AddModelFlags(CLI::App& command, const std::string& prefix, ModelFlags* flags) {
  std::vector<std::string> formats;
  for (KvFormat format : kAllKvFormats) formats.push_back(KvFormatName(format));
  command
      .add_option(absl::StrCat("--", prefix, "weights"), flags->weights,
                  "As the checkpoint holds them, or quantised while loading")
      ->check(CLI::IsMember({"auto", "bf16", "int8", "int4"}))
      ->capture_default_str();
  command.add_option(absl::StrCat("--", prefix, "kv-dtype"), flags->kv_format, "KV cache")
      ->check(CLI::IsMember(formats))
      ->capture_default_str();
}

}  // namespace

void AddPerplexityCommand(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("perplexity", "How well a model predicts a text, and how near to another");
  auto flags = std::make_shared<PerplexityFlags>();
  flags->num_threads = ReadCpuLimits().usable();
  command->add_option("model", flags->model.dir, "Model directory")->required();
  command->add_option("file", flags->file, "Text file")->required();
  AddModelFlags(*command, "", &flags->model);
  CLI::Option* against =
      command->add_option("--against", flags->against.dir, "Model directory of the reference");
  AddModelFlags(*command, "against-", &flags->against);
  for (const char* option : {"--against-weights", "--against-kv-dtype"}) {
    command->get_option(option)->needs(against);
  }
  command->add_option("--sequence-length", flags->sequence_length, "Tokens of a window")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "Read no more of the text; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_option("--isa", flags->isa, "CPU instruction set")->capture_default_str();
  command->add_option("--threads", flags->num_threads, "Threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--output", flags->output, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  command->footer(kPerplexityFooter);
  command->callback([flags, exit_code] { *exit_code = RunPerplexity(*flags); });
}

}  // namespace qwenserve
