#ifndef QWENSERVE_TOOLS_QWENCTL_CHAT_REPL_H_
#define QWENSERVE_TOOLS_QWENCTL_CHAT_REPL_H_

#include "tools/qwenctl/gateway_client.h"

namespace qwenserve {

// A conversation on the terminal: what the gateway's chat page does, by commands that /help lists.
// Thoughts are dimmed, answers printed as they are. Ctrl-C stops the answer, not the program;
// Ctrl-D leaves. `first` holds the system message, if any, and the options that /set changes.
// Returns the exit status.
int RunChatRepl(const ClientOptions& options, v1::ChatRequest first);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_CHAT_REPL_H_
