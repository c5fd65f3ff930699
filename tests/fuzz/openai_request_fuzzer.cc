// Any bytes as the body of an OpenAI request: the first byte chooses which one. What is accepted
// can go on to the tokenizer as it is and passes through the wire unchanged; what is not is the
// client's fault, and told as JSON.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/base/json_reader.h"
#include "services/gateway/call/request_validation.h"
#include "services/gateway/http/json_text.h"
#include "services/gateway/http/openai_error.h"
#include "services/gateway/http/openai_request.h"

namespace {

namespace v1 = qwenserve::v1;

void CheckRefusal(const absl::Status& status) {
  const int code = qwenserve::HttpStatusOf(status);
  if (code != 501 && (code < 400 || code > 499)) std::abort();
  const auto json = qwenserve::ParseJson(qwenserve::OpenAiErrorJson(status), "error");
  if (!json.ok() || !json->is_object()) std::abort();
}

template <typename Message>
void CheckMessage(const Message& message) {
  std::string bytes;
  // Protobuf refuses to read strings that are no UTF-8.
  Message again;
  if (!message.SerializeToString(&bytes) || !again.ParseFromString(bytes)) std::abort();
  if (again.ByteSizeLong() != message.ByteSizeLong()) std::abort();
}

void CheckOptions(const v1::GenerationOptions& options) {
  const qwenserve::RequestLimits limits;
  if (options.n() > limits.max_n || options.stop_size() > limits.max_stop_strings ||
      options.top_logprobs() > limits.max_top_logprobs) {
    std::abort();
  }
}

void CheckGeneration(const absl::StatusOr<qwenserve::GenerateRequest>& request) {
  if (!request.ok()) return CheckRefusal(request.status());
  CheckMessage(request->prompt);
  CheckOptions(request->options);
  for (const char c : request->request_id) {
    if (c < 32 || c > 126) std::abort();
  }
  if (request->tools != nullptr && request->tools->names.empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const absl::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  const qwenserve::RequestLimits limits;
  switch (data[0] % 4) {
    case 0: {
      const auto chat = qwenserve::ParseChatRequest(body);
      if (!chat.ok()) {
        CheckRefusal(chat.status());
        break;
      }
      CheckMessage(chat->request);
      CheckGeneration(qwenserve::ValidateChat(chat->request, limits));
      break;
    }
    case 1: {
      const auto completion = qwenserve::ParseCompletionRequest(body);
      if (!completion.ok()) {
        CheckRefusal(completion.status());
        break;
      }
      for (const auto& request : completion->requests) {
        CheckMessage(request);
        CheckGeneration(qwenserve::ValidateComplete(request, limits));
      }
      break;
    }
    case 2: {
      const auto tokenize = qwenserve::ParseTokenizeRequest(body);
      if (tokenize.ok()) CheckMessage(*tokenize);
      const absl::Status status =
          tokenize.ok() ? qwenserve::ValidateTokenize(*tokenize, limits) : tokenize.status();
      if (!status.ok()) CheckRefusal(status);
      break;
    }
    default: {
      const auto detokenize = qwenserve::ParseDetokenizeRequest(body);
      if (detokenize.ok()) CheckMessage(*detokenize);
      const absl::Status status = detokenize.ok()
                                      ? qwenserve::ValidateDetokenize(*detokenize, limits)
                                      : detokenize.status();
      if (!status.ok()) CheckRefusal(status);
    }
  }
  return 0;
}
