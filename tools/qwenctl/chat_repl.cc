#include "tools/qwenctl/chat_repl.h"

#include <editline/readline.h>
#include <langinfo.h>
#include <locale.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/common/error_details.h"
#include "tools/qwenctl/answer_output.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/interrupt_watcher.h"

namespace qwenserve {
namespace {

constexpr char kHelp[] =
    "  /help              this text\n"
    "  /clear             forget the conversation, keep the system message\n"
    "  /history           show the conversation\n"
    "  /system [TEXT]     set the system message and forget the conversation; none without TEXT\n"
    "  /set               show the options\n"
    "  /set NAME VALUE    max-tokens, temperature, top-p, top-k, min-p, repetition-penalty, seed;\n"
    "                     VALUE default = the model's own\n"
    "  /exit              leave (Ctrl-D too)\n"
    "Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.\n";
constexpr char kHowToLeave[] = "\n(/exit or Ctrl-D leaves)\n";

// While a line is edited, Ctrl-C is a key of the editor: as a signal it would leave what was typed
// in the editor's buffer, to be sent unseen with the next line.
class InterruptKey {
 public:
  InterruptKey() {
    typed_ = false;
    if (tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios without = before_;
    without.c_cc[VINTR] = _POSIX_VDISABLE;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &without);
    changed_ = true;
  }
  ~InterruptKey() {
    if (changed_) tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }

  static void Bind() { rl_add_defun("interrupt", OnKey, '\x03'); }
  static bool typed() { return typed_; }

 private:
  static int OnKey(int, int) {
    typed_ = true;
    rl_done = 1;  // readline() returns as at the end of the input
    return 0;
  }

  static inline bool typed_ = false;  // the line editor has only functions without context
  termios before_ = {};
  bool changed_ = false;
};

class Repl {
 public:
  Repl(const ClientOptions& options, v1::ChatRequest first)
      : options_(options), request_(std::move(first)) {}

  int Run();

 private:
  // Nothing: the end of the input. Empty: Ctrl-C.
  std::optional<std::string> ReadMessage();
  // False: leave.
  bool Command(absl::string_view line);
  void Ask(const std::string& message);
  void ShowHistory() const;
  void SetSystem(absl::string_view text);
  void SetOption(absl::string_view argument);
  void ShowOptions() const;
  void Clear();

  const ClientOptions options_;
  std::unique_ptr<GatewayClient> client_;
  v1::ChatRequest request_;
  std::atomic<bool> answering_{false};
};

int Repl::Run() {
  // Without a UTF-8 locale the line editor drops everything that is not ASCII.
  if (setlocale(LC_CTYPE, "") == nullptr || std::string(nl_langinfo(CODESET)) != "UTF-8") {
    setlocale(LC_CTYPE, "C.UTF-8");
  }
  // Before the client, so that gRPC's threads inherit the blocked signal.
  InterruptWatcher watcher([this] {
    if (answering_) {
      client_->Cancel();
    } else {
      std::cout << kHowToLeave << "> " << std::flush;
    }
  });
  rl_initialize();
  InterruptKey::Bind();
  client_ = std::make_unique<GatewayClient>(options_);
  const absl::StatusOr<v1::ListModelsResponse> models = client_->ListModels();
  if (!models.ok()) return ReportError(models.status());
  for (const v1::Model& model : models->models()) std::cout << "model " << model.id() << "  ";
  std::cout << "(/help for commands)" << std::endl;
  while (std::optional<std::string> line = ReadMessage()) {
    if (line->empty()) continue;
    add_history(line->c_str());
    if (line->front() == '/') {
      if (!Command(*line)) break;
    } else {
      Ask(*line);
    }
  }
  return kExitOk;
}

std::optional<std::string> Repl::ReadMessage() {
  std::string message;
  const char* prompt = "> ";
  for (;;) {
    std::unique_ptr<char, decltype(&std::free)> line(nullptr, &std::free);
    {
      InterruptKey key;
      line.reset(readline(prompt));
    }
    if (line == nullptr && InterruptKey::typed()) {
      std::cout << kHowToLeave;
      return std::string();
    }
    if (line == nullptr) {
      std::cout << std::endl;
      return std::nullopt;
    }
    absl::string_view text = line.get();
    const bool goes_on = absl::ConsumeSuffix(&text, "\\");
    absl::StrAppend(&message, text);
    if (!goes_on) return std::string(absl::StripAsciiWhitespace(message));
    message.push_back('\n');
    prompt = ". ";
  }
}

void Repl::Ask(const std::string& message) {
  v1::ChatMessage* user = request_.mutable_input()->add_messages();
  user->set_role(v1::ROLE_USER);
  user->set_content(message);
  std::string text;
  std::string reasoning;
  answering_ = true;
  const absl::StatusOr<Answer> answer =
      client_->Chat(request_, [&](absl::string_view piece, absl::string_view thought) {
        absl::StrAppend(&text, piece);
        absl::StrAppend(&reasoning, thought);
        std::cout << thought << piece << std::flush;
      });
  answering_ = false;
  std::cout << std::endl;
  if (!answer.ok() && answer.status().code() != absl::StatusCode::kCancelled) {
    ReportError(answer.status());
    if (ErrorReason(answer.status()) == "CONTEXT_LENGTH_EXCEEDED") {
      std::cerr << "(/clear makes room: it forgets the conversation)" << std::endl;
    }
  } else {
    std::cerr << "[" << (answer.ok() ? AnswerStats(*answer) : std::string("stopped")) << "]"
              << std::endl;
  }
  if (text.empty()) {  // nothing to remember: the question may be asked again
    request_.mutable_input()->mutable_messages()->RemoveLast();
    return;
  }
  v1::ChatMessage* assistant = request_.mutable_input()->add_messages();
  assistant->set_role(v1::ROLE_ASSISTANT);
  assistant->set_content(text);
  assistant->set_reasoning(reasoning);
}

bool Repl::Command(absl::string_view line) {
  const size_t space = line.find(' ');
  const absl::string_view name = line.substr(0, space);
  absl::string_view argument;
  if (space != absl::string_view::npos) {
    argument = absl::StripAsciiWhitespace(line.substr(space + 1));
  }
  if (name == "/exit") return false;
  if (name == "/help") {
    std::cout << kHelp;
  } else if (name == "/clear") {
    Clear();
  } else if (name == "/history") {
    ShowHistory();
  } else if (name == "/system") {
    SetSystem(argument);
  } else if (name == "/set") {
    argument.empty() ? ShowOptions() : SetOption(argument);
  } else {
    std::cout << "unknown command " << name << ", see /help" << std::endl;
  }
  return true;
}

void Repl::Clear() {
  auto* messages = request_.mutable_input()->mutable_messages();
  const bool has_system = !messages->empty() && messages->Get(0).role() == v1::ROLE_SYSTEM;
  const int keep = has_system ? 1 : 0;
  messages->DeleteSubrange(keep, messages->size() - keep);
  std::cout << "conversation forgotten" << std::endl;
}

void Repl::SetSystem(absl::string_view text) {
  request_.mutable_input()->clear_messages();
  if (!text.empty()) {
    v1::ChatMessage* system = request_.mutable_input()->add_messages();
    system->set_role(v1::ROLE_SYSTEM);
    system->set_content(std::string(text));
  }
  std::cout << (text.empty() ? "no system message" : "system message set") << std::endl;
}

void Repl::ShowHistory() const {
  if (request_.input().messages().empty()) std::cout << "no conversation yet" << std::endl;
  for (const v1::ChatMessage& message : request_.input().messages()) {
    const char* role = message.role() == v1::ROLE_SYSTEM ? "system"
                       : message.role() == v1::ROLE_USER ? "you"
                                                         : "model";
    std::cout << role << ": " << message.content() << std::endl;
  }
}

void Repl::ShowOptions() const {
  const std::string sampling = request_.options().sampling().ShortDebugString();
  if (request_.options().has_max_tokens()) {
    std::cout << "max_tokens: " << request_.options().max_tokens() << std::endl;
  }
  std::cout << (sampling.empty() ? "sampling: the model's own" : sampling) << std::endl;
}

void Repl::SetOption(absl::string_view argument) {
  const size_t space = argument.find(' ');
  const absl::string_view name = argument.substr(0, space);
  const absl::string_view value = space == absl::string_view::npos
                                      ? absl::string_view()
                                      : absl::StripAsciiWhitespace(argument.substr(space + 1));
  const bool reset = value == "default";
  v1::GenerationOptions* options = request_.mutable_options();
  v1::SamplingParams* sampling = options->mutable_sampling();
  float number = 0;
  uint32_t count = 0;
  uint64_t seed = 0;
  const bool is_number = reset || absl::SimpleAtof(value, &number);
  const bool is_count = reset || absl::SimpleAtoi(value, &count);
  bool ok = true;
  if (name == "temperature" && is_number) {
    reset ? sampling->clear_temperature() : sampling->set_temperature(number);
  } else if (name == "top-p" && is_number) {
    reset ? sampling->clear_top_p() : sampling->set_top_p(number);
  } else if (name == "min-p" && is_number) {
    reset ? sampling->clear_min_p() : sampling->set_min_p(number);
  } else if (name == "repetition-penalty" && is_number) {
    reset ? sampling->clear_repetition_penalty() : sampling->set_repetition_penalty(number);
  } else if (name == "top-k" && is_count) {
    reset ? sampling->clear_top_k() : sampling->set_top_k(count);
  } else if (name == "max-tokens" && is_count) {
    reset ? options->clear_max_tokens() : options->set_max_tokens(count);
  } else if (name == "seed" && (reset || absl::SimpleAtoi(value, &seed))) {
    reset ? sampling->clear_seed() : sampling->set_seed(seed);
  } else {
    ok = false;
  }
  if (ok) {
    std::cout << "set" << std::endl;
  } else {
    std::cout << "no option '" << name << "', or '" << value << "' is no value for it: see /help"
              << std::endl;
  }
}

}  // namespace

int RunChatRepl(const ClientOptions& options, v1::ChatRequest first) {
  return Repl(options, std::move(first)).Run();
}

}  // namespace qwenserve
