#include "services/tokenizer/tokenizer_worker.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/stream_decoder.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/model_name.h"
#include "services/common/version.h"
#include "services/tokenizer/block_hash.h"
#include "services/tokenizer/chat_conversion.h"

namespace qwenserve {
namespace {

constexpr int kMaxMessages = 4096;
constexpr int kMaxTools = 512;
constexpr int kMaxItems = 16384;
constexpr int kMaxIdsPerItem = 131072;

// Every string that a client chose, together. An upper bound is cheap: the encoded size.
int64_t InputBytes(const v1::PrepareRequest& request) {
  switch (request.input_case()) {
    case v1::PrepareRequest::kChat:
      return static_cast<int64_t>(request.chat().ByteSizeLong());
    case v1::PrepareRequest::kText:
      return static_cast<int64_t>(request.text().size());
    default:
      return 0;
  }
}

absl::Status TooLong(size_t tokens, int64_t limit) {
  const std::string tokens_text = absl::StrCat(tokens);
  const std::string limit_text = absl::StrCat(limit);
  absl::Status status = InvalidField(
      "prompt", absl::StrCat(tokens_text, " tokens, at most ", limit_text, " are possible"));
  status = WithReason(std::move(status), kReasonContextLength);
  status = WithMetadata(std::move(status), "prompt_tokens", tokens_text);
  return WithMetadata(std::move(status), "max_prompt_tokens", limit_text);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerWorker>> TokenizerWorker::Create(
    const TokenizerWorkerOptions& options) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(options.model_dir));
  const bool recognise = options.chat_template == "auto";
  absl::StatusOr<ChatTemplate> chat_template = recognise
                                                   ? ChatTemplate::Recognise(options.model_dir)
                                                   : ChatTemplate::ByName(options.chat_template);
  const bool chat_optional = recognise && absl::IsFailedPrecondition(chat_template.status());
  if (!chat_template.ok() && !chat_optional) return chat_template.status();
  if (chat_template.ok()) {
    chat_template = chat_template->WithToolFormat(options.tool_format);
    if (!chat_template.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tool-format: ", chat_template.status().message()));
    }
  }
  auto worker =
      std::make_unique<TokenizerWorker>(options, std::move(tokenizer), std::move(chat_template));
  QS_RETURN_IF_ERROR(worker->SelfCheck());
  return worker;
}

TokenizerWorker::TokenizerWorker(const TokenizerWorkerOptions& options,
                                 std::unique_ptr<Tokenizer> tokenizer,
                                 absl::StatusOr<ChatTemplate> chat_template)
    : options_(options),
      model_(ServedModelName(options.served_model_name, options.model_dir)),
      tokenizer_(std::move(tokenizer)),
      chat_template_(std::move(chat_template)) {}

v1::DescribeResponse TokenizerWorker::Describe() const {
  v1::DescribeResponse response;
  response.set_instance_id(options_.instance_id);
  response.set_model(model_);
  response.set_tokenizer_hash(tokenizer_->hash());
  response.set_vocab_size(static_cast<uint32_t>(tokenizer_->vocab_size()));
  if (chat_template_.ok()) response.set_chat_template(std::string(chat_template_->name()));
  response.set_version(std::string(Version()));
  v1::TokenizerLimits& limits = *response.mutable_limits();
  limits.set_max_prompt_bytes(static_cast<uint64_t>(options_.max_prompt_bytes));
  limits.set_max_prompt_tokens(static_cast<uint32_t>(options_.max_prompt_tokens));
  limits.set_max_messages(kMaxMessages);
  limits.set_max_tools(kMaxTools);
  limits.set_max_items_per_detokenize(kMaxItems);
  limits.set_max_ids_per_item(kMaxIdsPerItem);
  return response;
}

absl::Status TokenizerWorker::CheckModel(const std::string& model) const {
  if (model.empty() || model == model_) return absl::OkStatus();
  return WithReason(absl::NotFoundError("this worker serves another model"), kReasonModelNotFound);
}

absl::StatusOr<std::vector<int32_t>> TokenizerWorker::CheckIds(const v1::TokenIds& ids) const {
  std::vector<int32_t> checked;
  checked.reserve(static_cast<size_t>(ids.ids_size()));
  for (int i = 0; i < ids.ids_size(); ++i) {
    const uint32_t id = ids.ids(i);
    const bool in_range = id <= static_cast<uint32_t>(std::numeric_limits<int32_t>::max());
    if (!in_range || !tokenizer_->HasToken(static_cast<int32_t>(id))) {
      return InvalidField(absl::StrCat("token_ids.ids[", i, "]"),
                          absl::StrCat(id, " is not the id of a token; the vocabulary has ",
                                       tokenizer_->vocab_size()));
    }
    checked.push_back(static_cast<int32_t>(id));
  }
  return checked;
}

absl::StatusOr<std::vector<int32_t>> TokenizerWorker::EncodeConversation(
    const v1::ChatInput& input, v1::AnswerFormat* format) const {
  if (!chat_template_.ok()) {
    return WithReason(chat_template_.status(), kReasonNoChatTemplate);
  }
  if (input.messages_size() > kMaxMessages) {
    return InvalidField("messages", absl::StrCat(input.messages_size(), ", at most ", kMaxMessages,
                                                 " are possible"));
  }
  if (input.tools_size() > kMaxTools) {
    return InvalidField("tools",
                        absl::StrCat(input.tools_size(), ", at most ", kMaxTools, " are possible"));
  }
  QS_ASSIGN_OR_RETURN(Conversation conversation, ToConversation(input));
  QS_ASSIGN_OR_RETURN(std::vector<Segment> segments,
                      chat_template_->Render(conversation.messages, conversation.options));
  *format = MakeAnswerFormat(*chat_template_, *tokenizer_, conversation);
  return EncodeChat(*tokenizer_, segments);
}

absl::StatusOr<std::vector<int32_t>> TokenizerWorker::EncodeInput(
    const v1::PrepareRequest& request, v1::PrepareResponse* response) const {
  switch (request.input_case()) {
    case v1::PrepareRequest::kChat: {
      absl::StatusOr<std::vector<int32_t>> ids =
          EncodeConversation(request.chat(), response->mutable_answer_format());
      if (!ids.ok()) return WithNamedField(ids.status(), "");
      return ids;
    }
    case v1::PrepareRequest::kText: {
      absl::StatusOr<std::vector<int32_t>> ids = tokenizer_->Encode(request.text());
      if (absl::IsInvalidArgument(ids.status())) {
        return InvalidField("text", ids.status().message());
      }
      return ids;
    }
    case v1::PrepareRequest::kTokenIds:
      return CheckIds(request.token_ids());
    default:
      return InvalidField("input", "one of chat, text and token_ids is needed");
  }
}

absl::StatusOr<v1::PrepareResponse> TokenizerWorker::Prepare(
    const v1::PrepareRequest& request) const {
  QS_RETURN_IF_ERROR(CheckModel(request.model()));
  const int64_t bytes = InputBytes(request);
  if (bytes > options_.max_prompt_bytes) {
    return InvalidField("prompt", absl::StrCat(bytes, " bytes, at most ", options_.max_prompt_bytes,
                                               " are possible"));
  }
  int64_t limit = options_.max_prompt_tokens;
  if (request.max_prompt_tokens() > 0) {
    limit = std::min<int64_t>(limit, request.max_prompt_tokens());
  }
  v1::PrepareResponse response;
  QS_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodeInput(request, &response));
  if (static_cast<int64_t>(ids.size()) > limit) return TooLong(ids.size(), limit);
  response.mutable_prompt_ids()->Assign(ids.begin(), ids.end());
  const std::vector<uint64_t> hashes = ChainBlockHashes(ids);
  response.mutable_block_hashes()->Assign(hashes.begin(), hashes.end());
  response.set_block_tokens(kRoutingBlockTokens);
  response.set_tokenizer_hash(tokenizer_->hash());
  if (request.with_pieces()) {
    for (const int32_t id : ids) response.add_pieces(std::string(tokenizer_->TokenBytes(id)));
  }
  return response;
}

absl::Status TokenizerWorker::DetokenizeItem(const v1::DetokenizeItem& item,
                                             v1::DetokenizeResult* result) const {
  if (item.ids_size() > kMaxIdsPerItem || item.lookup_ids_size() > kMaxIdsPerItem) {
    return InvalidField("ids", absl::StrCat(std::max(item.ids_size(), item.lookup_ids_size()),
                                            ", at most ", kMaxIdsPerItem, " are possible"));
  }
  DecodeItem decode;
  decode.ids.assign(item.ids().begin(), item.ids().end());
  decode.pending = item.pending();
  decode.flush = item.flush();
  decode.keep_special = item.keep_special_tokens();
  QS_ASSIGN_OR_RETURN(DecodeResult decoded, DecodeStep(*tokenizer_, decode));
  result->set_text(std::move(decoded.text));
  result->set_pending(std::move(decoded.pending));
  for (const size_t length : decoded.lengths) {
    result->add_text_lengths(static_cast<uint32_t>(length));
  }
  for (const uint32_t id : item.lookup_ids()) {
    // An id above the range of int32_t turns negative, which is no token either.
    result->add_lookup_tokens(std::string(tokenizer_->TokenBytes(static_cast<int32_t>(id))));
  }
  return absl::OkStatus();
}

absl::Status TokenizerWorker::Detokenize(const v1::DetokenizeRequest& request,
                                         v1::DetokenizeResponse* response) const {
  if (request.items_size() > kMaxItems) {
    return InvalidField(
        "items", absl::StrCat(request.items_size(), ", at most ", kMaxItems, " are possible"));
  }
  response->set_step(request.step());
  for (const v1::DetokenizeItem& item : request.items()) {
    v1::DetokenizeResult* result = response->add_results();
    const absl::Status status = DetokenizeItem(item, result);
    if (!status.ok()) {
      result->Clear();
      *result->mutable_error() = ToProtoStatus(status);
    }
    result->set_key(item.key());
    result->set_seq(item.seq());
  }
  return absl::OkStatus();
}

absl::Status TokenizerWorker::SelfCheck() const {
  const std::string text = "Hello, 世界! Ça va? 123 \xF0\x9F\x98\x80\n";
  DecodeItem item;
  QS_ASSIGN_OR_RETURN(item.ids, tokenizer_->Encode(text));
  item.flush = true;
  QS_ASSIGN_OR_RETURN(const DecodeResult decoded, DecodeStep(*tokenizer_, item));
  if (decoded.text == text) return absl::OkStatus();
  return absl::InternalError("the tokenizer does not give back a text that it encoded");
}

}  // namespace qwenserve
