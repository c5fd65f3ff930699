#include "absl/strings/str_cat.h"
#include "engine/tokenizer/unicode.h"
#include "services/common/listen_socket.h"
#include "tools/qwenctl/commands.h"

namespace qwenserve {
namespace {

// Gives `setter` the flag's value when the flag is there.
template <typename T, typename Setter>
CLI::Option* AddOptional(CLI::App& command, const std::string& name, const std::string& help,
                         Setter setter) {
  return command.add_option_function<T>(name, setter, help);
}

}  // namespace

std::string CheckText(const std::string& text) {
  for (const char* p = text.data(); p < text.data() + text.size();) {
    const Utf8Step step = ReadUtf8(p, text.data() + text.size());
    if (step.kind != Utf8Step::Kind::kValid) {
      return absl::StrCat("not valid UTF-8 at byte ", p - text.data());
    }
    p += step.size;
  }
  return "";
}

// gRPC itself takes a port modulo 65536 and asks the name service about what is no address at all.
std::string CheckAddress(const std::string& address) {
  const absl::Status status = CheckHostPort(address);
  return status.ok() ? "" : std::string(status.message());
}

std::string CheckTokenId(const std::string& id) { return id.empty() ? "needs an id" : ""; }

void AddClientFlags(CLI::App& command, ClientOptions* options) {
  command.add_option("--address", options->address, "Gateway, HOST:PORT")
      ->envname("QWENSERVE_ADDRESS")
      ->check(CheckAddress)
      ->capture_default_str();
  command.add_option("--model", options->model,
                     "Served model name; may be left out when the "
                     "gateway serves one");
  command.add_option("--timeout", options->timeout_seconds, "Seconds for one request")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
  command.add_option("--output", options->output, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
}

void AddGenerationFlags(CLI::App& command, v1::GenerationOptions* options) {
  // --ignore-eos for measurements, the rest as in inference.proto. Ranges are the server's
  // business: it names the field and what is allowed.
  v1::SamplingParams* sampling = options->mutable_sampling();
  AddOptional<uint32_t>(command, "--max-tokens", "Longest answer, in tokens",
                        [options](uint32_t v) { options->set_max_tokens(v); });
  AddOptional<float>(command, "--temperature", "0 takes the most probable token",
                     [sampling](float v) { sampling->set_temperature(v); });
  AddOptional<float>(command, "--top-p", "Only the most probable tokens that reach this mass",
                     [sampling](float v) { sampling->set_top_p(v); });
  AddOptional<uint32_t>(command, "--top-k", "Only the k most probable tokens; 0 = all",
                        [sampling](uint32_t v) { sampling->set_top_k(v); });
  AddOptional<float>(command, "--min-p", "Only tokens this probable relative to the best one",
                     [sampling](float v) { sampling->set_min_p(v); });
  AddOptional<float>(command, "--repetition-penalty", "Above 1: repeats less",
                     [sampling](float v) { sampling->set_repetition_penalty(v); });
  AddOptional<uint64_t>(command, "--seed", "Same seed, same answer",
                        [sampling](uint64_t v) { sampling->set_seed(v); });
  AddOptional<std::string>(command, "--stop", "End the answer before this text; may be repeated",
                           [options](const std::string& v) { options->add_stop(v); })
      ->check(CheckText)
      ->take_all()
      ->trigger_on_parse();
  AddOptional<uint32_t>(command, "--logprobs",
                        "Log-probability of each token and of so many alternatives",
                        [options](uint32_t v) { options->set_top_logprobs(v); });
  command.add_flag_function(
      "--ignore-eos", [options](int64_t) { options->set_ignore_eos(true); },
      "Go on after the end of the text, up to --max-tokens");
}

}  // namespace qwenserve
