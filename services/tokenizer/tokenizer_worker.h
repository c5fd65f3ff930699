#ifndef QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_WORKER_H_
#define QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_WORKER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "qwenserve/v1/tokenizer.pb.h"

namespace qwenserve {

struct TokenizerWorkerOptions {
  std::string model_dir;
  std::string served_model_name;       // empty: the folder's name
  std::string chat_template = "auto";  // or a name that ChatTemplate::ByName takes
  std::string tool_format = "auto";    // or a name that ChatTemplate::WithToolFormat takes
  std::string instance_id;
  int64_t max_prompt_bytes = 8 << 20;   // all texts of one Prepare together
  int64_t max_prompt_tokens = 1 << 20;  // ids of one Prepare
};

// What a tokenizer worker does, without transport: requests in, answers out. Stateless between
// calls and safe for any number of threads. Checks every limit by itself, whatever the gateway
// has checked before.
class TokenizerWorker {
 public:
  // Loads the tokenizer and encodes and decodes a text with it. A template that is not recognised
  // is no error: text still works, and chat answers FAILED_PRECONDITION.
  static absl::StatusOr<std::unique_ptr<TokenizerWorker>> Create(
      const TokenizerWorkerOptions& options);

  // Also for tests, which make the parts themselves.
  TokenizerWorker(const TokenizerWorkerOptions& options, std::unique_ptr<Tokenizer> tokenizer,
                  absl::StatusOr<ChatTemplate> chat_template);

  v1::DescribeResponse Describe() const;

  // NOT_FOUND for another model's name, INVALID_ARGUMENT with the field and the numbers, else as
  // the template says. Near linear in the size of the request: at 8 MiB, seconds.
  absl::StatusOr<v1::PrepareResponse> Prepare(const v1::PrepareRequest& request) const;

  // One result per item, in order; an item that cannot be decoded fails alone. INVALID_ARGUMENT
  // only for a message with more items than the limit.
  absl::Status Detokenize(const v1::DetokenizeRequest& request,
                          v1::DetokenizeResponse* response) const;

  // Encodes and decodes a text of several scripts and compares.
  absl::Status SelfCheck() const;

  const std::string& model() const { return model_; }

 private:
  absl::Status CheckModel(const std::string& model) const;
  // Of a chat also how its answer is to be read.
  absl::StatusOr<std::vector<int32_t>> EncodeInput(const v1::PrepareRequest& request,
                                                   v1::PrepareResponse* response) const;
  absl::StatusOr<std::vector<int32_t>> EncodeConversation(const v1::ChatInput& input,
                                                          v1::AnswerFormat* format) const;
  absl::StatusOr<std::vector<int32_t>> CheckIds(const v1::TokenIds& ids) const;
  absl::Status DetokenizeItem(const v1::DetokenizeItem& item, v1::DetokenizeResult* result) const;

  const TokenizerWorkerOptions options_;
  const std::string model_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const absl::StatusOr<ChatTemplate> chat_template_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_WORKER_H_
