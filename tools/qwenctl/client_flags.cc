#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/tokenizer/unicode.h"
#include "services/common/net/listen_socket.h"
#include "tools/qwenctl/commands.h"

namespace qwenserve {
namespace {

// Gives `setter` the flag's value when the flag is there.
template <typename T, typename Setter>
CLI::Option* AddOptional(CLI::App& command, const std::string& name, const std::string& help,
                         Setter setter) {
  return command.add_option_function<T>(name, setter, help);
}

std::optional<std::pair<uint32_t, float>> ParseBias(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('=', 1));
  uint32_t id = 0;
  float bias = 0;
  if (!absl::SimpleAtoi(parts.first, &id) || !absl::SimpleAtof(parts.second, &bias)) {
    return std::nullopt;
  }
  return std::make_pair(id, bias);
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
  if (const size_t scheme = address.find("://"); scheme != std::string::npos) {
    return absl::StrCat("'", address, "': HOST:PORT without a scheme is wanted, such as ",
                        address.substr(scheme + 3, address.find('/', scheme + 3) - scheme - 3));
  }
  const absl::Status status = CheckHostPort(address);
  return status.ok() ? "" : std::string(status.message());
}

std::string CheckTokenId(const std::string& id) { return id.empty() ? "needs an id" : ""; }

void AddClientFlags(CLI::App& command, ClientOptions* options) {
  AddConnectionFlags(command, "Gateway", &options->connection);
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
  AddOptional<uint32_t>(command, "--min-tokens", "The text does not end before this many tokens",
                        [options](uint32_t v) { options->set_min_tokens(v); });
  AddOptional<uint32_t>(command, "--n", "So many answers to the same prompt",
                        [options](uint32_t v) { options->set_n(v); });
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
  AddOptional<float>(command, "--presence-penalty", "Above 0: fewer tokens that were there before",
                     [sampling](float v) { sampling->set_presence_penalty(v); });
  AddOptional<float>(command, "--frequency-penalty", "Above 0: the fewer, the more often they were",
                     [sampling](float v) { sampling->set_frequency_penalty(v); });
  AddOptional<std::vector<std::string>>(
      command, "--logit-bias",
      "Added to the logits of these tokens, such as 17=-100,42=5; -100 keeps one out",
      [sampling](const std::vector<std::string>& biases) {
        for (const std::string& text : biases) {
          const auto bias = ParseBias(text);
          (*sampling->mutable_logit_bias())[bias->first] = bias->second;
        }
      })
      ->check([](const std::string& text) {
        return ParseBias(text) ? "" : absl::StrCat("'", text, "' is no ID=BIAS");
      })
      ->delimiter(',');
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
