#ifndef QWENSERVE_TOOLS_QWENCTL_CONVERSATION_FILE_H_
#define QWENSERVE_TOOLS_QWENCTL_CONVERSATION_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "qwenserve/v1/inference.pb.h"

namespace qwenserve {

// Conversations as the gateway's chat page exports and imports them
// (services/gateway/web/store.js):
// {"title", "created", "updated", "settings": {"system", "model", "temperature", ...}, "messages":
// [{"role", "content", "reasoning", "tool_calls", "tool_call_id"}]}, times in milliseconds.

// Replaces the file. UNKNOWN with the system's reason when it can't be written.
absl::Status SaveConversation(const std::string& path, const v1::ChatRequest& request);

// Replaces the messages and settings of `request` by those of the file; of a list of conversations
// the first counts. Settings that the page does not know stay. NOT_FOUND, or INVALID_ARGUMENT
// naming the field; `request` is then as before.
absl::Status LoadConversation(const std::string& path, v1::ChatRequest* request);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_CONVERSATION_FILE_H_
