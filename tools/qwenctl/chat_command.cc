#include <unistd.h>

#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "tools/qwenctl/answer_output.h"
#include "tools/qwenctl/chat_repl.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"

namespace qwenserve {
namespace {

struct ChatFlags {
  ClientOptions client;
  v1::GenerationOptions generation;
  std::string message;
  std::string system;
  bool thinking = true;
  CLI::Option* thinking_flag = nullptr;
};

v1::ChatRequest MakeRequest(const ChatFlags& flags) {
  v1::ChatRequest request;
  request.set_model(flags.client.model);
  *request.mutable_options() = flags.generation;
  if (flags.thinking_flag->count() > 0) {
    request.mutable_input()->set_enable_thinking(flags.thinking);
  }
  if (!flags.system.empty()) {
    v1::ChatMessage* system = request.mutable_input()->add_messages();
    system->set_role(v1::ROLE_SYSTEM);
    system->set_content(flags.system);
  }
  return request;
}

int AskOnce(const ChatFlags& flags) {
  v1::ChatRequest request = MakeRequest(flags);
  v1::ChatMessage* message = request.mutable_input()->add_messages();
  message->set_role(v1::ROLE_USER);
  message->set_content(flags.message);
  const auto client = GatewayClient::Create(flags.client);
  if (!client.ok()) return ReportError(client.status());
  return PrintAnswer(flags.client, flags.generation.n(), [&](const GatewayClient::OnText& on_text) {
    return (*client)->Chat(request, on_text);
  });
}

int RunChat(ChatFlags& flags, bool has_message) {
  if (has_message) return AskOnce(flags);
  if (isatty(STDIN_FILENO) != 0 && !flags.client.json()) {
    if (flags.generation.n() > 1) {
      std::cerr << "qwenctl: --n is for one question, with --message or from a pipe: a conversation"
                   " goes on with one answer"
                << std::endl;
      return kExitUsage;
    }
    return RunChatRepl(flags.client, MakeRequest(flags));
  }
  // Without a terminal the whole input is one message.
  flags.message.assign(std::istreambuf_iterator<char>(std::cin), {});
  const bool blank = absl::StripAsciiWhitespace(flags.message).empty();
  const std::string problem = blank ? "standard input is empty" : CheckText(flags.message);
  if (!problem.empty()) {
    std::cerr << "qwenctl: the question: " << problem << std::endl;
    return kExitUsage;
  }
  return AskOnce(flags);
}

}  // namespace

void AddChatCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("chat", "Talk to the model; one question with --message");
  auto flags = std::make_shared<ChatFlags>();
  AddClientFlags(*command, &flags->client);
  AddGenerationFlags(*command, &flags->generation);
  CLI::Option* message =
      command->add_option("--message", flags->message, "Ask this, print the answer, end")
          ->check(CheckText);
  command->add_option("--system", flags->system, "System message")->check(CheckText);
  flags->thinking_flag = command->add_flag("--thinking,!--no-thinking", flags->thinking,
                                           "Models with switchable reasoning only");
  command->callback(
      [flags, message, exit_code] { *exit_code = RunChat(*flags, message->count() > 0); });
}

}  // namespace qwenserve
