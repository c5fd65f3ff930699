#include "tests/services/gateway/fake_tokenizer.h"

#include <chrono>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "services/gateway/call/random_draws.h"

namespace qwenserve {
namespace {

// Bytes of a character that begins with `lead`.
size_t CharacterLength(unsigned char lead) {
  if (lead >= 0xF0) return 4;
  if (lead >= 0xE0) return 3;
  return lead >= 0xC0 ? 2 : 1;
}

}  // namespace

v1::DetokenizeResult FakeDecode(const v1::DetokenizeItem& item) {
  v1::DetokenizeResult result;
  result.set_key(item.key());
  result.set_seq(item.seq());
  std::string bytes = item.pending();
  std::string text;
  for (uint32_t id : item.ids()) {
    if (id > 255) {
      result.mutable_error()->set_code(static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
      result.mutable_error()->set_message("unknown id");
      return result;
    }
    bytes.push_back(static_cast<char>(id));
    if (bytes.size() >= CharacterLength(static_cast<unsigned char>(bytes[0]))) {
      text += bytes;
      bytes.clear();
    }
    result.add_text_lengths(static_cast<uint32_t>(text.size()));
  }
  if (item.flush() && !bytes.empty()) {
    text += "\xEF\xBF\xBD";
    bytes.clear();
    if (item.ids_size() > 0) {
      result.set_text_lengths(item.ids_size() - 1, static_cast<uint32_t>(text.size()));
    }
  }
  for (uint32_t id : item.lookup_ids())
    result.add_lookup_tokens(std::string(1, static_cast<char>(id)));
  result.set_text(text);
  result.set_pending(bytes);
  return result;
}

FakeTokenizer::FakeTokenizer(Options options)
    : options_(std::move(options)), instance_id_(RandomId("fake-tokenizer-")) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", options_.port),
                           grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

std::string FakeTokenizer::address() const { return absl::StrCat("127.0.0.1:", port_); }

void FakeTokenizer::Kill() {
  {
    absl::MutexLock lock(&mutex_);
    dead_ = true;
  }
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void FakeTokenizer::HoldAnswers(bool hold) {
  absl::MutexLock lock(&mutex_);
  hold_answers_ = hold;
}

void FakeTokenizer::BreakNextStream() {
  absl::MutexLock lock(&mutex_);
  break_next_ = true;
}

void FakeTokenizer::HoldPrepare(bool hold) {
  absl::MutexLock lock(&mutex_);
  hold_prepare_ = hold;
}

void FakeTokenizer::Freeze() {
  absl::MutexLock lock(&mutex_);
  frozen_ = hold_prepare_ = hold_answers_ = true;
}

void FakeTokenizer::FailPrepare(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  prepare_status_ = status;
}

int FakeTokenizer::num_prepared() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(prepared_.size());
}

std::vector<int> FakeTokenizer::message_sizes() const {
  absl::MutexLock lock(&mutex_);
  return message_sizes_;
}

int FakeTokenizer::num_items() const {
  absl::MutexLock lock(&mutex_);
  return std::accumulate(message_sizes_.begin(), message_sizes_.end(), 0);
}

std::vector<v1::PrepareRequest> FakeTokenizer::prepared() const {
  absl::MutexLock lock(&mutex_);
  return prepared_;
}

grpc::Status FakeTokenizer::Describe(grpc::ServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) {
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](FakeTokenizer* fake)
             ABSL_EXCLUSIVE_LOCKS_REQUIRED(fake->mutex_) { return !fake->frozen_ || fake->dead_; },
        this));
  }
  response->set_instance_id(instance_id_);
  response->set_model(options_.model);
  response->set_tokenizer_hash(options_.hash);
  response->set_vocab_size(256);
  response->set_chat_template(options_.chat_template);
  response->mutable_limits()->set_max_items_per_detokenize(1024);
  return grpc::Status::OK;
}

grpc::Status FakeTokenizer::Prepare(grpc::ServerContext* context, const v1::PrepareRequest* request,
                                    v1::PrepareResponse* response) {
  absl::MutexLock lock(&mutex_);
  prepared_.push_back(*request);
  mutex_.Await(absl::Condition(
      +[](FakeTokenizer* fake) ABSL_EXCLUSIVE_LOCKS_REQUIRED(fake->mutex_) {
        return !fake->hold_prepare_ || fake->dead_;
      },
      this));
  if (dead_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "killed");
  if (!prepare_status_.ok()) return prepare_status_;
  std::string text = request->text();
  for (const v1::ChatMessage& message : request->chat().messages()) text += message.content();
  for (unsigned char byte : text) response->add_prompt_ids(byte);
  for (uint32_t id : request->token_ids().ids()) response->add_prompt_ids(id);
  response->set_tokenizer_hash(options_.hash);
  if (request->with_pieces()) {
    for (uint32_t id : response->prompt_ids()) {
      response->add_pieces(std::string(1, static_cast<char>(id)));
    }
  }
  if (request->has_chat()) *response->mutable_answer_format() = options_.answer_format;
  return grpc::Status::OK;
}

grpc::Status FakeTokenizer::Detokenize(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::DetokenizeResponse, v1::DetokenizeRequest>* stream) {
  v1::DetokenizeRequest request;
  while (stream->Read(&request)) {
    {
      absl::MutexLock lock(&mutex_);
      message_sizes_.push_back(request.items_size());
      mutex_.Await(absl::Condition(
          +[](FakeTokenizer* fake) ABSL_EXCLUSIVE_LOCKS_REQUIRED(fake->mutex_) {
            return !fake->hold_answers_ || fake->dead_ || fake->break_next_;
          },
          this));
      if (dead_) break;
      if (std::exchange(break_next_, false)) {
        return grpc::Status(grpc::StatusCode::INTERNAL, "scripted");
      }
    }
    v1::DetokenizeResponse response;
    response.set_step(request.step());
    for (const v1::DetokenizeItem& item : request.items()) {
      *response.add_results() = FakeDecode(item);
    }
    if (!stream->Write(response)) break;
  }
  return grpc::Status::OK;
}

}  // namespace qwenserve
