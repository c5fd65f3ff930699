#include "tools/qwenctl/bracketed_paste.h"

#include <editline/readline.h>
#include <errno.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace qwenserve {
namespace {

constexpr absl::string_view kEnd = "\033[201~";

// The rest of a paste, without the mark of its end. The line editor reads byte by byte, so nothing
// of it lies in a buffer.
std::string ReadPasted() {
  std::string text;
  char byte = 0;
  for (;;) {
    const ssize_t got = read(STDIN_FILENO, &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got != 1) return text;
    text.push_back(byte);
    absl::string_view whole = text;
    if (absl::ConsumeSuffix(&whole, kEnd)) return std::string(whole);
  }
}

int OnPaste(int, int) {
  const std::string pasted = absl::StrReplaceAll(ReadPasted(), {{"\r\n", "\n"}, {"\r", "\n"}});
  std::string text;
  for (const char c : pasted) {
    // Other control characters would drive the terminal that shows the line.
    if (!absl::ascii_iscntrl(static_cast<unsigned char>(c)) || c == '\n' || c == '\t') {
      text.push_back(c);
    }
  }
  rl_insert_text(text.c_str());
  rl_forced_update_display();
  return 0;
}

bool TerminalKnows() {
  const char* term = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && term != nullptr && absl::string_view(term) != "dumb";
}

}  // namespace

void BracketedPaste::Bind() {
  // A function is called by the last key of its sequence, and can be added by one key only.
  rl_add_defun("paste", OnPaste, '~');
  rl_parse_and_bind("bind ~ ed-insert");
  rl_parse_and_bind("bind '\\e[200~' paste");
}

BracketedPaste::BracketedPaste() : on_(TerminalKnows()) {
  if (on_) std::cout << "\033[?2004h" << std::flush;
}

BracketedPaste::~BracketedPaste() {
  if (on_) std::cout << "\033[?2004l" << std::flush;
}

}  // namespace qwenserve
