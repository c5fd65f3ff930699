#include "tests/services/gateway/fake_generator.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "services/common/errors/status_mapping.h"
#include "services/gateway/call/random_draws.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

}  // namespace

FakeGenerator::Options::Options() {
  hello.set_protocol_version(1);
  hello.set_instance_id(RandomId("fake-generator-"));
  hello.set_model("fake");
  hello.set_tokenizer_hash("hash-1");
  hello.set_numerics_fingerprint("fingerprint-1");
  hello.set_family("qwen2");
  hello.set_vocab_size(256);
  hello.mutable_limits()->set_max_model_len(4096);
  hello.mutable_limits()->set_max_running(64);
  hello.mutable_limits()->set_max_batch_tokens(4096);
  hello.mutable_limits()->set_max_session_sequences(256);
}

FakeGenerator::FakeGenerator(Options options) : options_(std::move(options)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", options_.port),
                           grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  beater_ = std::make_unique<std::thread>([this] { Beat(); });
}

std::string FakeGenerator::address() const { return absl::StrCat("127.0.0.1:", port_); }

void FakeGenerator::Kill() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  if (beater_ != nullptr) beater_->join();
  beater_.reset();
}

v1::Submit FakeGenerator::WaitSubmit(size_t index) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return submits_.size() > index; };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience)) {
    ADD_FAILURE() << "no Submit number " << index;
    return {};
  }
  return submits_[index];
}

bool FakeGenerator::WaitCancelled(uint64_t sequence) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]()
                   ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return cancelled_.count(sequence) > 0; };
  return mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
}

bool FakeGenerator::WaitCredit(uint64_t sequence, uint32_t tokens) {
  absl::MutexLock lock(&mutex_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return credits_[sequence] >= tokens; };
  return mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
}

uint32_t FakeGenerator::credit(uint64_t sequence) const {
  absl::MutexLock lock(&mutex_);
  auto found = credits_.find(sequence);
  return found == credits_.end() ? 0 : found->second;
}

size_t FakeGenerator::num_submits() const {
  absl::MutexLock lock(&mutex_);
  return submits_.size();
}

void FakeGenerator::Send(const v1::StepEvents& step) {
  absl::MutexLock lock(&mutex_);
  v1::SessionResponse message;
  *message.mutable_step_events() = step;
  Write(message);
}

v1::SequenceEvent* FakeGenerator::AddEvent(uint64_t sequence, v1::StepEvents* step) {
  v1::SequenceEvent* event = step->add_events();
  event->set_sequence(sequence);
  event->set_attempt(attempts_[sequence]);
  return event;
}

void FakeGenerator::SendTokens(uint64_t sequence, const std::string& text) {
  v1::StepEvents step;
  v1::SequenceEvent* event;
  {
    absl::MutexLock lock(&mutex_);
    event = AddEvent(sequence, &step);
    event->set_first_token_index(produced_[sequence]);
    produced_[sequence] += static_cast<uint32_t>(text.size());
  }
  for (unsigned char byte : text) event->add_token_ids(byte);
  Send(step);
}

void FakeGenerator::SendFinish(uint64_t sequence, v1::SequenceFinishReason reason) {
  v1::StepEvents step;
  {
    absl::MutexLock lock(&mutex_);
    AddEvent(sequence, &step)->mutable_finish()->set_reason(reason);
  }
  Send(step);
}

void FakeGenerator::SendError(uint64_t sequence, const absl::Status& error) {
  v1::StepEvents step;
  {
    absl::MutexLock lock(&mutex_);
    v1::SequenceFinish* finish = AddEvent(sequence, &step)->mutable_finish();
    finish->set_reason(v1::SEQUENCE_FINISH_REASON_ERROR);
    *finish->mutable_status() = ToProtoStatus(error);
  }
  Send(step);
}

void FakeGenerator::SendDraining(int seconds_left) {
  absl::MutexLock lock(&mutex_);
  v1::SessionResponse message;
  message.mutable_draining()->mutable_time_left()->set_seconds(seconds_left);
  Write(message);
}

void FakeGenerator::DropSession() {
  absl::MutexLock lock(&mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

void FakeGenerator::SilenceHeartbeats(bool silent) {
  absl::MutexLock lock(&mutex_);
  silent_ = silent;
}

void FakeGenerator::SetStats(const v1::EngineStats& stats) {
  absl::MutexLock lock(&mutex_);
  stats_ = stats;
  WriteHeartbeat();
}

int FakeGenerator::num_sessions() const {
  absl::MutexLock lock(&mutex_);
  return sessions_;
}

int FakeGenerator::num_client_heartbeats() const {
  absl::MutexLock lock(&mutex_);
  return client_heartbeats_;
}

grpc::Status FakeGenerator::Session(grpc::ServerContext* context, Stream* stream) {
  v1::SessionRequest message;
  if (!stream->Read(&message) || !message.has_hello()) {
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "no hello");
  }
  {
    absl::MutexLock lock(&mutex_);
    stream_ = stream;
    context_ = context;
    ++sessions_;
    v1::SessionResponse response;
    *response.mutable_hello() = options_.hello;
    Write(response);
  }
  while (stream->Read(&message)) HandleMessage(message);
  absl::MutexLock lock(&mutex_);
  if (stream_ == stream) {
    stream_ = nullptr;
    context_ = nullptr;
  }
  echoes_.clear();
  return grpc::Status::OK;
}

void FakeGenerator::HandleMessage(const v1::SessionRequest& message) {
  absl::MutexLock lock(&mutex_);
  if (message.has_submit()) {
    const v1::Submit& submit = message.submit();
    submits_.push_back(submit);
    // Every session numbers its sequences from 1.
    attempts_[submit.sequence()] = submit.attempt();
    produced_[submit.sequence()] = static_cast<uint32_t>(submit.resumed_ids_size());
    cancelled_.erase(submit.sequence());
    if (!options_.echo) return;
    Echo echo;
    for (uint32_t id : submit.prompt_ids()) echo.text.push_back(static_cast<char>(id));
    echo.ends = echo.text.size() <= submit.max_tokens();
    echo.text.resize(std::min<size_t>(echo.text.size(), submit.max_tokens()));
    echo.sent = static_cast<size_t>(submit.resumed_ids_size());
    echo.credit = submit.initial_credit();
    echoes_[submit.sequence()] = echo;
    Pump(submit.sequence());
  } else if (message.has_cancel()) {
    for (uint64_t sequence : message.cancel().sequences()) {
      cancelled_[sequence] = true;
      echoes_.erase(sequence);
      v1::SessionResponse response;
      v1::SequenceEvent* event = AddEvent(sequence, response.mutable_step_events());
      event->mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_CANCELLED);
      Write(response);
    }
  } else if (message.has_credit()) {
    for (const v1::SequenceCredit& credit : message.credit().credits()) {
      credits_[credit.sequence()] += credit.tokens();
      auto echo = echoes_.find(credit.sequence());
      if (echo == echoes_.end()) continue;
      echo->second.credit += credit.tokens();
      Pump(credit.sequence());
    }
  } else if (message.has_heartbeat()) {
    ++client_heartbeats_;
  }
}

// A few tokens a step, as far as the credit goes.
void FakeGenerator::Pump(uint64_t sequence) {
  constexpr size_t kTokensPerStep = 16;
  Echo& echo = echoes_[sequence];
  while (echo.sent < echo.text.size() && echo.credit > 0) {
    const size_t count =
        std::min<size_t>({kTokensPerStep, echo.text.size() - echo.sent, echo.credit});
    v1::SessionResponse response;
    v1::SequenceEvent* event = AddEvent(sequence, response.mutable_step_events());
    event->set_first_token_index(static_cast<uint32_t>(echo.sent));
    for (size_t i = 0; i < count; ++i) {
      event->add_token_ids(static_cast<unsigned char>(echo.text[echo.sent + i]));
    }
    echo.sent += count;
    echo.credit -= count;
    Write(response);
  }
  if (echo.sent < echo.text.size()) return;
  v1::SessionResponse response;
  v1::SequenceEvent* event = AddEvent(sequence, response.mutable_step_events());
  event->mutable_finish()->set_reason(echo.ends ? v1::SEQUENCE_FINISH_REASON_EOS
                                                : v1::SEQUENCE_FINISH_REASON_LENGTH);
  Write(response);
  echoes_.erase(sequence);
}

void FakeGenerator::Write(const v1::SessionResponse& message) {
  if (stream_ != nullptr) stream_->Write(message);
}

void FakeGenerator::Beat() {
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stop_), absl::Milliseconds(100))) {
    if (silent_ || !options_.heartbeats) continue;
    WriteHeartbeat();
  }
}

void FakeGenerator::WriteHeartbeat() {
  v1::SessionResponse message;
  *message.mutable_heartbeat()->mutable_stats() = stats_;
  Write(message);
}

}  // namespace qwenserve
