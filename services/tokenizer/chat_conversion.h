#ifndef QWENSERVE_SERVICES_TOKENIZER_CHAT_CONVERSION_H_
#define QWENSERVE_SERVICES_TOKENIZER_CHAT_CONVERSION_H_

#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"

namespace qwenserve {

struct Conversation {
  std::vector<ChatMessage> messages;
  ChatOptions options;
};

// The chat of a request as the templates take it. INVALID_ARGUMENT names the field relative to
// `input`, such as `messages[2].role`.
absl::StatusOr<Conversation> ToConversation(const v1::ChatInput& input);

// How the answer to a conversation that the template has rendered is to be read.
v1::AnswerFormat MakeAnswerFormat(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                                  const Conversation& conversation);

// Adds the field that a message of the form "messages[2].role: ..." names to `status` as a
// violation, with `prefix` before it. Other statuses stay as they are.
absl::Status WithNamedField(const absl::Status& status, absl::string_view prefix);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_TOKENIZER_CHAT_CONVERSION_H_
