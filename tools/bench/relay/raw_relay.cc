#include "tools/bench/relay/raw_relay.h"

#include <deque>
#include <iostream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace qwenserve {
namespace {

// As long as most of the words that a simulated engine makes.
constexpr char kText[] = " time";
// Without end, as far as a generator allows: a raw hop does not pace.
constexpr uint32_t kCredit = 1 << 20;

grpc::ChannelArguments LargeMessages() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return arguments;
}

}  // namespace

// One client's stream. What comes while a write is under way goes into the next message.
class RawRelay::Stream final : public grpc::ServerWriteReactor<v1::StreamCompleteResponse> {
 public:
  explicit Stream(RawRelay* relay) : relay_(relay) {}

  void Begin(std::shared_ptr<Stream> self, uint64_t sequence, const v1::CompleteRequest& request) {
    absl::MutexLock lock(&mutex_);
    self_ = std::move(self);
    sequence_ = sequence;
    v1::Started* started = outgoing_.mutable_started();
    started->set_request_id(request.request_id());
    started->set_model(request.model());
    started->set_prompt_tokens(static_cast<uint32_t>(request.token_ids().ids_size()));
    writing_ = true;
    StartWrite(&outgoing_);
  }

  void OnEvent(const v1::SequenceEvent& event) {
    absl::MutexLock lock(&mutex_);
    v1::CompletionDelta* delta = next_.mutable_delta();
    if (delta->token_ids().empty()) delta->set_first_token_index(event.first_token_index());
    delta->mutable_token_ids()->MergeFrom(event.token_ids());
    for (int i = 0; i < event.token_ids_size(); ++i) delta->mutable_text()->append(kText);
    ended_ = ended_ || event.has_finish();
    if (event.finish().has_status()) error_ = event.finish().status().message();
    WriteNext();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) ended_ = true;
    WriteNext();
  }
  void OnCancel() override { relay_->Cancel(sequence_); }
  void OnDone() override {
    std::shared_ptr<Stream> self;  // destroyed last, without the lock
    absl::MutexLock lock(&mutex_);
    self = std::move(self_);
  }

 private:
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (next_.delta().token_ids_size() > 0) {
      outgoing_.Clear();
      outgoing_.Swap(&next_);
      writing_ = true;
      StartWrite(&outgoing_);
    } else if (ended_) {
      finished_ = true;
      Finish(error_.empty() ? grpc::Status::OK : grpc::Status(grpc::StatusCode::INTERNAL, error_));
    }
  }

  RawRelay* const relay_;
  absl::Mutex mutex_;
  uint64_t sequence_ = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  std::string error_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  v1::StreamCompleteResponse next_ ABSL_GUARDED_BY(mutex_);
  v1::StreamCompleteResponse outgoing_;  // gRPC's while writing_
  std::shared_ptr<Stream> self_ ABSL_GUARDED_BY(mutex_);
};

RawRelay::RawRelay(const std::string& address)
    : channel_(
          grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), LargeMessages())),
      stub_(v1::Generator::NewStub(channel_)),
      session_(stub_->Session(&context_)) {
  v1::SessionRequest hello;
  hello.mutable_hello()->set_protocol_version(1);
  hello.mutable_hello()->set_instance_id("raw-relay");
  session_->Write(hello);
  v1::SessionResponse response;
  while (session_->Read(&response) && !response.has_hello()) {
  }
  hello_ = response.hello();
  reader_ = std::thread([this] { ReadSteps(); });
  writer_ = std::thread([this] { WriteAll(); });
}

RawRelay::~RawRelay() {
  stop_ = true;
  context_.TryCancel();
  reader_.join();
  writer_.join();
}

void RawRelay::Write(v1::SessionRequest request) {
  absl::MutexLock lock(&write_mutex_);
  waiting_.push_back(std::move(request));
}

void RawRelay::Cancel(uint64_t sequence) {
  v1::SessionRequest request;
  request.mutable_cancel()->add_sequences(sequence);
  Write(std::move(request));
}

void RawRelay::WriteAll() {
  absl::Time beat = absl::Now();
  while (!stop_) {
    std::deque<v1::SessionRequest> requests;
    {
      absl::MutexLock lock(&write_mutex_);
      write_mutex_.AwaitWithTimeout(
          absl::Condition(
              +[](std::deque<v1::SessionRequest>* waiting) { return !waiting->empty(); },
              &waiting_),
          absl::Milliseconds(100));
      requests.swap(waiting_);
    }
    for (const v1::SessionRequest& request : requests) session_->Write(request);
    if (absl::Now() < beat) continue;
    beat = absl::Now() + absl::Milliseconds(500);
    v1::SessionRequest heartbeat;
    heartbeat.mutable_heartbeat();
    session_->Write(heartbeat);
  }
}

void RawRelay::ReadSteps() {
  v1::SessionResponse response;
  std::vector<std::pair<std::shared_ptr<Stream>, const v1::SequenceEvent*>> deliveries;
  while (session_->Read(&response)) {
    if (!response.has_step_events()) continue;
    deliveries.clear();
    {
      absl::MutexLock lock(&mutex_);
      for (const v1::SequenceEvent& event : response.step_events().events()) {
        auto found = streams_.find(event.sequence());
        if (found == streams_.end()) continue;
        deliveries.emplace_back(found->second, &event);
        if (event.has_finish()) streams_.erase(found);
      }
    }
    for (auto& [stream, event] : deliveries) stream->OnEvent(*event);
  }
  const grpc::Status status = session_->Finish();
  if (!stop_)
    std::cerr << "relay_bench: the session ended: " << status.error_message() << std::endl;
}

grpc::ServerWriteReactor<v1::StreamCompleteResponse>* RawRelay::StreamComplete(
    grpc::CallbackServerContext* context, const v1::CompleteRequest* request) {
  auto stream = std::make_shared<Stream>(this);
  v1::SessionRequest message;
  v1::Submit* submit = message.mutable_submit();
  {
    absl::MutexLock lock(&mutex_);
    submit->set_sequence(next_sequence_++);
    streams_[submit->sequence()] = stream;
  }
  submit->set_request_id(request->request_id());
  *submit->mutable_prompt_ids() = request->token_ids().ids();
  submit->set_max_tokens(request->options().max_tokens());
  submit->set_ignore_eos(request->options().ignore_eos());
  v1::SamplingParams* sampling = submit->mutable_sampling();
  sampling->set_temperature(1);
  sampling->set_top_p(1);
  sampling->set_top_k(0);
  sampling->set_min_p(0);
  sampling->set_repetition_penalty(1);
  sampling->set_presence_penalty(0);
  sampling->set_frequency_penalty(0);
  sampling->set_seed(request->options().sampling().seed());
  submit->set_initial_credit(kCredit);
  stream->Begin(stream, submit->sequence(), *request);
  Write(std::move(message));
  return stream.get();
}

grpc::ServerUnaryReactor* RawRelay::ListModels(grpc::CallbackServerContext* context,
                                               const v1::ListModelsRequest*,
                                               v1::ListModelsResponse* response) {
  v1::Model* model = response->add_models();
  model->set_id(hello_.model());
  model->set_vocab_size(hello_.vocab_size());
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace qwenserve
