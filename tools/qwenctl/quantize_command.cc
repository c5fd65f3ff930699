#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/loader/checkpoint.h"
#include "engine/quantize/quantizer.h"
#include "engine/runtime/machine_limits.h"
#include "engine/tokenizer/tokenizer.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/interrupt_watcher.h"
#include "tools/qwenctl/text_tokens.h"

namespace qwenserve {
namespace {

struct QuantizeFlags {
  QuantizeOptions options;
  std::string calibration;
  int64_t samples = 128;
  int64_t sequence_length = 512;
};

constexpr const char* kQuantizeFooter =
    "Reads a bf16, fp16 or f32 checkpoint and writes one with 4 or 8 bits per weight in the GPTQ\n"
    "layout, which qwenserve, transformers, vLLM and others load. Each column of a matrix is\n"
    "rounded with regard to the inputs that it has on the calibration text, and the columns "
    "behind\n"
    "it make up for the error: better than rounding to nearest at the same size. Embedding, head\n"
    "and norms are copied as they are.\n\n"
    "The calibration text should look like what the model will be used for: some hundred "
    "kilobytes\n"
    "of plain text, or of dialogues with <|im_start|> and <|im_end|> as the model sees them. Of a\n"
    "longer text, --samples pieces are taken, evenly spread. More and longer pieces cost time in\n"
    "proportion; 128 of 512 tokens are usually enough.\n\n"
    "OUT must not exist. It appears when it is complete; until then OUT.incomplete is written, "
    "which\n"
    "goes at an error or Ctrl-C. Progress goes to stderr. The error told for a matrix is that of "
    "its\n"
    "outputs on the calibration text: squared error over squared size.\n\n"
    "Example: qwenctl quantize /models/Qwen2.5-0.5B-Instruct /models/Qwen2.5-0.5B-int4 \\\n"
    "             --calibration dialogues.txt --bits 4";

std::string Duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole / 60 % 60);
}

void PrintProgress(const QuantizeProgress& progress, double damping) {
  std::cerr << absl::StrFormat("layer %d of %d  %-26s error %.3g %%", progress.layer + 1,
                               progress.num_layers, progress.modules,
                               100 * progress.relative_error);
  if (progress.layer + 1 < progress.num_layers || progress.seconds_left >= 0.5) {
    std::cerr << "  " << Duration(progress.seconds_left) << " left";
  }
  if (progress.damping > damping) {
    std::cerr << "  (damping " << progress.damping
              << ": the text says too little about its inputs)";
  }
  std::cerr << std::endl;
}

absl::StatusOr<CalibrationIds> ReadCalibration(const QuantizeFlags& flags) {
  QS_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(flags.options.model_dir));
  const int64_t longest = checkpoint->config().max_positions;
  if (flags.sequence_length > longest) {
    return absl::InvalidArgumentError(absl::StrCat("--sequence-length is ", flags.sequence_length,
                                                   ", but the model has ", longest, " positions"));
  }
  QS_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(flags.options.model_dir));
  QS_ASSIGN_OR_RETURN(const TextTokens text, ReadTextTokens(flags.calibration, *tokenizer));
  auto pieces = SpreadPieces(text.ids, flags.sequence_length, flags.samples);
  if (!pieces.ok()) {
    return absl::Status(pieces.status().code(),
                        absl::StrCat(flags.calibration, ": ", pieces.status().message(),
                                     "; give more text or a smaller --sequence-length"));
  }
  std::cerr << "calibration: " << pieces->size() << " pieces of " << flags.sequence_length
            << " tokens";
  if (static_cast<int64_t>(pieces->size()) < flags.samples) {
    std::cerr << ", all that the text has (" << text.ids.size() << " tokens; --samples is "
              << flags.samples << ")";
  }
  std::cerr << std::endl;
  return pieces;
}

int RunQuantize(const QuantizeFlags& flags) {
  std::atomic<bool> interrupted{false};
  InterruptWatcher watcher([&] { interrupted = true; });
  const auto began = std::chrono::steady_clock::now();
  const absl::StatusOr<CalibrationIds> ids = ReadCalibration(flags);
  if (!ids.ok()) return ReportError(ids.status());
  const absl::StatusOr<QuantizeReport> report = QuantizeCheckpoint(
      flags.options, *ids,
      [&](const QuantizeProgress& progress) {
        PrintProgress(progress, flags.options.gptq.damping);
      },
      [&] { return interrupted.load(); });
  if (!report.ok()) return ReportError(report.status());
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  std::cout << absl::StrFormat(
                   "%s: %d bits, group %d; %.1f MB of weights instead of %.1f MB; mean error %.3g "
                   "%%, worst %.3g %% (%s); took %s",
                   flags.options.out_dir, flags.options.gptq.bits, flags.options.gptq.group_size,
                   static_cast<double>(report->written_bytes) / 1e6,
                   static_cast<double>(report->source_bytes) / 1e6,
                   100 * report->mean_relative_error, 100 * report->worst_relative_error,
                   report->worst, Duration(seconds))
            << std::endl;
  return kExitOk;
}

}  // namespace

void AddQuantizeCommand(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("quantize", "Make a 4 or 8 bit GPTQ checkpoint of a bf16 one");
  auto flags = std::make_shared<QuantizeFlags>();
  QuantizeOptions& options = flags->options;
  options.num_threads = ReadCpuLimits().usable();
  command->add_option("model", options.model_dir, "Model directory to read")->required();
  command->add_option("out", options.out_dir, "Model directory to write")->required();
  command->add_option("--calibration", flags->calibration, "Text file")->required();
  command->add_option("--bits", options.gptq.bits, "Bits per weight")
      ->check(CLI::IsMember({4, 8}))
      ->capture_default_str();
  command->add_option("--group-size", options.gptq.group_size, "Weights that share a scale")
      ->check(CLI::IsMember({32, 64, 128}))
      ->capture_default_str();
  command->add_option("--samples", flags->samples, "Pieces of calibration text, at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--sequence-length", flags->sequence_length, "Tokens of a piece")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--damp", options.gptq.damping, "Share of the mean added to the diagonal")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command->add_flag("--desc-act", options.gptq.act_order,
                    "Most active inputs first: a little better, slower to load");
  command->add_option("--threads", options.num_threads, "Threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->footer(kQuantizeFooter);
  command->callback([flags, exit_code] { *exit_code = RunQuantize(*flags); });
}

}  // namespace qwenserve
