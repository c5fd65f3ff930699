#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "tools/qwenctl/answer_output.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"

namespace qwenserve {
namespace {

struct CompleteFlags {
  ClientOptions client;
  v1::CompleteRequest request;
  std::string prompt;
  std::vector<uint32_t> token_ids;
};

int RunComplete(CompleteFlags& flags) {
  if (flags.token_ids.empty()) {
    flags.request.set_text(flags.prompt);
  } else {
    for (uint32_t id : flags.token_ids) flags.request.mutable_token_ids()->add_ids(id);
  }
  const auto client = GatewayClient::Create(flags.client);
  if (!client.ok()) return ReportError(client.status());
  return PrintAnswer(flags.client, flags.request.options().n(),
                     [&](const GatewayClient::OnText& on_text) {
                       return (*client)->Complete(flags.request, on_text);
                     });
}

}  // namespace

void AddCompleteCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("complete", "Continue a text or token ids");
  auto flags = std::make_shared<CompleteFlags>();
  AddClientFlags(*command, &flags->client);
  AddGenerationFlags(*command, flags->request.mutable_options());
  CLI::Option_group* prompt = command->add_option_group("prompt");
  prompt->add_option("--prompt", flags->prompt, "Text to go on with")->check(CheckText);
  prompt->add_option("--token-ids", flags->token_ids, "Ids to go on with, such as 1,2,3")
      ->check(CheckTokenId)
      ->delimiter(',');
  prompt->require_option(1);
  command->add_option_function<uint32_t>(
      "--prompt-logprobs", [flags](uint32_t v) { flags->request.set_prompt_logprobs(v); },
      "Log-probability of each prompt token after the first and of so many alternatives");
  command->callback([flags, exit_code] { *exit_code = RunComplete(*flags); });
}

}  // namespace qwenserve
