#include "tools/bench/relay/step_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace qwenserve {
namespace {

constexpr uint32_t kContext = 1 << 20;
constexpr uint32_t kSequences = 10000;
constexpr uint32_t kFirstWord = 1000;

}  // namespace

StepSource::StepSource(const v1::DescribeResponse& tokenizer, absl::Duration step) {
  hello_.set_protocol_version(1);
  hello_.set_instance_id("step-source");
  hello_.set_model(tokenizer.model());
  hello_.set_tokenizer_hash(tokenizer.tokenizer_hash());
  hello_.set_numerics_fingerprint("none");
  hello_.set_vocab_size(kFirstWord * 2);
  v1::GeneratorLimits* limits = hello_.mutable_limits();
  limits->set_max_model_len(kContext);
  limits->set_max_running(kSequences);
  limits->set_max_batch_tokens(kContext);
  limits->set_max_session_sequences(kSequences);
  limits->set_block_tokens(16);
  limits->set_total_blocks(kContext);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  stepper_ = std::thread([this, step] { RunSteps(step); });
}

StepSource::~StepSource() {
  stop_ = true;
  stepper_.join();
  server_->Shutdown(std::chrono::system_clock::now());
}

std::string StepSource::address() const { return absl::StrCat("127.0.0.1:", port_); }

absl::Time StepSource::SentAt(uint32_t prompt_id, uint32_t index) const {
  absl::MutexLock lock(&mutex_);
  const auto found = sent_.find(prompt_id);
  if (found == sent_.end() || index >= found->second.size()) return absl::InfinitePast();
  return found->second[index];
}

void StepSource::Forget() {
  absl::MutexLock lock(&mutex_);
  sent_.clear();
}

grpc::Status StepSource::Session(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>* stream) {
  v1::SessionRequest request;
  if (!stream->Read(&request) || !request.has_hello()) return grpc::Status::CANCELLED;
  v1::SessionResponse response;
  *response.mutable_hello() = hello_;
  stream->Write(response);
  const auto peer = std::make_shared<Peer>();
  {
    absl::MutexLock lock(&mutex_);
    absl::MutexLock write(&peer->write_mutex);
    peer->stream = stream;
    peers_.insert(peer);
  }
  while (stream->Read(&request)) {
    absl::MutexLock lock(&mutex_);
    Take(*peer, request);
  }
  absl::MutexLock lock(&mutex_);
  peers_.erase(peer);
  absl::MutexLock write(&peer->write_mutex);
  peer->stream = nullptr;
  return grpc::Status::OK;
}

void StepSource::Take(Peer& peer, const v1::SessionRequest& request) {
  if (request.has_submit()) {
    const v1::Submit& submit = request.submit();
    peer.sequences[submit.sequence()] = {submit.prompt_ids().empty() ? 0 : submit.prompt_ids(0), 0,
                                         submit.max_tokens(), submit.initial_credit()};
  }
  for (const v1::SequenceCredit& credit : request.credit().credits()) {
    const auto found = peer.sequences.find(credit.sequence());
    if (found != peer.sequences.end()) found->second.credit += credit.tokens();
  }
  for (uint64_t sequence : request.cancel().sequences()) peer.sequences.erase(sequence);
}

v1::SessionResponse StepSource::MakeStep(Peer& peer) {
  v1::SessionResponse response;
  const absl::Time now = absl::Now();
  for (auto it = peer.sequences.begin(); it != peer.sequences.end();) {
    Sequence& sequence = it->second;
    if (sequence.credit == 0) {
      ++it;
      continue;
    }
    --sequence.credit;
    v1::SequenceEvent* event = response.mutable_step_events()->add_events();
    event->set_sequence(it->first);
    event->set_first_token_index(sequence.tokens);
    event->add_token_ids(kFirstWord + sequence.tokens % 500);
    sent_[sequence.prompt_id].push_back(now);
    const bool last = ++sequence.tokens == sequence.max_tokens;
    if (last) event->mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_LENGTH);
    it = last ? peer.sequences.erase(it) : std::next(it);
  }
  return response;
}

void StepSource::RunSteps(absl::Duration step) {
  absl::Time next = absl::Now();
  absl::Time beat = next;
  while (!stop_) {
    next += step;
    absl::SleepFor(next - absl::Now());
    const bool beat_now = absl::Now() >= beat;
    if (beat_now) beat = absl::Now() + absl::Milliseconds(500);
    std::vector<std::pair<std::shared_ptr<Peer>, v1::SessionResponse>> steps;
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& peer : peers_) steps.emplace_back(peer, MakeStep(*peer));
    }
    for (auto& [peer, response] : steps) {
      absl::MutexLock write(&peer->write_mutex);
      if (peer->stream == nullptr) continue;
      if (response.has_step_events()) peer->stream->Write(response);
      v1::SessionResponse heartbeat;
      heartbeat.mutable_heartbeat();
      if (beat_now) peer->stream->Write(heartbeat);
    }
  }
}

}  // namespace qwenserve
