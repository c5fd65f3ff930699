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
#include "services/common/errors/error_details.h"
#include "tools/qwenctl/answer_output.h"
#include "tools/qwenctl/bracketed_paste.h"
#include "tools/qwenctl/conversation_file.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/interrupt_watcher.h"

namespace qwenserve {
namespace {

constexpr char kHelp[] =
    "  /help              this text\n"
    "  /clear             forget the conversation, keep the system message\n"
    "  /history           show the conversation\n"
    "  /again             answer the last message anew\n"
    "  /edit TEXT         ask TEXT instead of the last message\n"
    "  /continue          go on with an answer that was stopped or cut\n"
    "  /save FILE         write the conversation, as the chat page exports it\n"
    "  /load FILE         go on with a conversation of such a file\n"
    "  /system [TEXT]     set the system message and forget the conversation; none without TEXT\n"
    "  /set               show the options\n"
    "  /set NAME VALUE    model, thinking (on, off), max-tokens, temperature, top-p, top-k, "
    "min-p,\n"
    "                     repetition-penalty, seed; VALUE default = the model's own\n"
    "  /exit              leave (Ctrl-D too)\n"
    "Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.\n"
    "What is pasted is one message, with all its lines.\n";
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

// Prints as it comes; thoughts dimmed where the terminal can.
class DimmedOutput {
 public:
  void Write(absl::string_view text, bool dim) {
    if (text.empty()) return;
    SetDim(dim);
    std::cout << text << std::flush;
  }
  void End() {
    SetDim(false);
    std::cout << std::endl;
  }

 private:
  static bool CanDim() {
    const char* term = std::getenv("TERM");
    return isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr && term != nullptr &&
           absl::string_view(term) != "dumb";
  }
  void SetDim(bool dim) {
    if (!can_dim_ || dim == dim_) return;
    std::cout << (dim ? "\033[2m" : "\033[0m");
    dim_ = dim;
  }

  const bool can_dim_ = CanDim();
  bool dim_ = false;
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
  // These put things back as they were when no answer comes.
  void Ask(const std::string& message);
  void Again();
  void Edit(absl::string_view text);
  void Continue();
  // Prints an answer to `request` and adds what came of it to `text` and `reasoning`; whether
  // anything came.
  bool Stream(const v1::ChatRequest& request, std::string* text, std::string* reasoning);
  bool AnswerLast();
  bool EndsWithAnswer() const;
  void Save(absl::string_view path) const;
  void Load(absl::string_view path);
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
  BracketedPaste::Bind();
  auto client = GatewayClient::Create(options_);
  if (!client.ok()) return ReportError(client.status());
  client_ = *std::move(client);
  const absl::StatusOr<v1::ListModelsResponse> models = client_->ListModels();
  if (!models.ok()) return ReportError(models.status());
  for (const v1::Model& model : models->models()) std::cout << "model " << model.id() << "  ";
  if (models->models().empty()) std::cout << client_->NoModels() << "  ";
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
      BracketedPaste paste;
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

bool Repl::Stream(const v1::ChatRequest& request, std::string* text, std::string* reasoning) {
  bool any = false;
  DimmedOutput output;
  answering_ = true;
  const absl::StatusOr<Answer> answer =
      client_->Chat(request, [&](absl::string_view piece, absl::string_view thought) {
        absl::StrAppend(text, piece);
        absl::StrAppend(reasoning, thought);
        any = any || !piece.empty();
        output.Write(thought, true);
        output.Write(piece, false);
      });
  answering_ = false;
  output.End();
  if (!answer.ok() && answer.status().code() != absl::StatusCode::kCancelled) {
    ReportError(answer.status());
    if (ErrorReason(answer.status()) == "CONTEXT_LENGTH_EXCEEDED") {
      std::cerr << "(/clear makes room: it forgets the conversation)" << std::endl;
    }
    if (ErrorReason(answer.status()) == kReasonModelNotFound ||
        ErrorField(answer.status()) == "model") {
      std::cerr << "(/set model NAME chooses one)" << std::endl;
    }
    if (any) std::cerr << "(/continue goes on)" << std::endl;
  } else {
    std::cerr << "[" << (answer.ok() ? AnswerStats(*answer) : std::string("stopped")) << "]"
              << std::endl;
  }
  return any;
}

bool Repl::AnswerLast() {
  std::string text;
  std::string reasoning;
  if (!Stream(request_, &text, &reasoning)) return false;
  v1::ChatMessage* assistant = request_.mutable_input()->add_messages();
  assistant->set_role(v1::ROLE_ASSISTANT);
  assistant->set_content(text);
  assistant->set_reasoning(reasoning);
  return true;
}

bool Repl::EndsWithAnswer() const {
  const auto& messages = request_.input().messages();
  return !messages.empty() && messages.rbegin()->role() == v1::ROLE_ASSISTANT;
}

void Repl::Ask(const std::string& message) {
  v1::ChatMessage* user = request_.mutable_input()->add_messages();
  user->set_role(v1::ROLE_USER);
  user->set_content(message);
  if (!AnswerLast()) request_.mutable_input()->mutable_messages()->RemoveLast();
}

void Repl::Again() {
  if (!EndsWithAnswer()) {
    std::cout << "there is no answer yet" << std::endl;
    return;
  }
  const v1::ChatInput before = request_.input();
  request_.mutable_input()->mutable_messages()->RemoveLast();
  if (!AnswerLast()) *request_.mutable_input() = before;
}

void Repl::Edit(absl::string_view text) {
  auto* messages = request_.mutable_input()->mutable_messages();
  int last = messages->size() - 1;
  while (last >= 0 && messages->Get(last).role() != v1::ROLE_USER) --last;
  if (last < 0 || text.empty()) {
    std::cout << (text.empty() ? "/edit TEXT: what to ask instead" : "there is no message yet")
              << std::endl;
    return;
  }
  const v1::ChatInput before = request_.input();
  messages->DeleteSubrange(last, messages->size() - last);
  const int kept = messages->size();
  Ask(std::string(text));
  if (messages->size() == kept) *request_.mutable_input() = before;
}

void Repl::Continue() {
  if (!EndsWithAnswer()) {
    std::cout << "there is no answer yet" << std::endl;
    return;
  }
  v1::ChatRequest request = request_;
  request.mutable_input()->set_continue_final_message(true);
  auto* messages = request_.mutable_input()->mutable_messages();
  v1::ChatMessage* last = messages->Mutable(messages->size() - 1);
  Stream(request, last->mutable_content(), last->mutable_reasoning());
}

void Repl::Save(absl::string_view path) const {
  if (path.empty()) {
    std::cout << "/save FILE: where to" << std::endl;
    return;
  }
  const absl::Status saved = SaveConversation(std::string(path), request_);
  if (!saved.ok()) {
    std::cout << saved.message() << std::endl;
    return;
  }
  std::cout << "saved " << request_.input().messages_size() << " messages" << std::endl;
}

void Repl::Load(absl::string_view path) {
  if (path.empty()) {
    std::cout << "/load FILE: where from" << std::endl;
    return;
  }
  const absl::Status loaded = LoadConversation(std::string(path), &request_);
  if (!loaded.ok()) {
    std::cout << loaded.message() << std::endl;
    return;
  }
  ShowHistory();
  ShowOptions();
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
  } else if (name == "/again") {
    Again();
  } else if (name == "/edit") {
    Edit(argument);
  } else if (name == "/continue") {
    Continue();
  } else if (name == "/save") {
    Save(argument);
  } else if (name == "/load") {
    Load(argument);
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
  if (!request_.model().empty()) std::cout << "model: " << request_.model() << std::endl;
  if (request_.input().has_enable_thinking()) {
    std::cout << "thinking: " << (request_.input().enable_thinking() ? "on" : "off") << std::endl;
  }
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
  } else if (name == "model" && !value.empty()) {
    reset ? request_.clear_model() : request_.set_model(std::string(value));
  } else if (name == "thinking" && (reset || value == "on" || value == "off")) {
    v1::ChatInput* input = request_.mutable_input();
    reset ? input->clear_enable_thinking() : input->set_enable_thinking(value == "on");
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
