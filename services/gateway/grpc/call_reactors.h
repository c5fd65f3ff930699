#ifndef QWENSERVE_SERVICES_GATEWAY_GRPC_CALL_REACTORS_H_
#define QWENSERVE_SERVICES_GATEWAY_GRPC_CALL_REACTORS_H_

#include <memory>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "services/common/errors/status_mapping.h"
#include "services/gateway/answer/response_builder.h"
#include "services/gateway/call/generate_call.h"
#include "services/gateway/gateway.h"

namespace qwenserve {

// gRPC's side of a generation: the streaming and the unary form. Each keeps itself alive until
// OnDone, and the call until then too.

// When gRPC ends the call, on our clock.
absl::Time DeadlineOf(const grpc::ServerContextBase& context);

// What both forms share: life time, cancellation, and pulling under one lock.
template <typename Reactor>
class CallReactor : public Reactor, public CallSink {
 public:
  void Wake() override {
    absl::MutexLock lock(&mutex_);
    while (!busy_ && !finished_ && call_ != nullptr) {
      GenerateCall::Output output = call_->Next();
      if (std::holds_alternative<std::monostate>(output)) return;
      Deliver(std::move(output));
    }
  }

  void Drop() override {
    absl::MutexLock lock(&mutex_);
    if (call_ != nullptr) context_->TryCancel();
  }

  void OnCancel() override {
    if (auto call = GetCall()) call->Abort();
  }

  void OnDone() override {
    std::shared_ptr<CallSink> self;  // destroyed last, without the lock
    std::shared_ptr<GenerateCall> call;
    absl::MutexLock lock(&mutex_);
    call = std::move(call_);
    self = std::move(self_);
  }

 protected:
  explicit CallReactor(grpc::CallbackServerContext* context) : context_(context) {}

  static Reactor* Begin(std::shared_ptr<CallReactor> reactor, Gateway& gateway,
                        GatewayMetrics::Method method, IncomingCall incoming) {
    auto call = std::make_shared<GenerateCall>(method, DeadlineOf(*reactor->context_),
                                               gateway.services(), reactor);
    {
      absl::MutexLock lock(&reactor->mutex_);
      reactor->self_ = reactor;
      reactor->call_ = call;
      reactor->open_ = std::move(incoming.open);
    }
    gateway.Register(call);
    call->Start(std::move(incoming));
    return reactor.get();
  }

  // Sends one output, never std::monostate; sets busy_ while gRPC is at work on it and finished_
  // when it is the last.
  virtual void Deliver(GenerateCall::Output output) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  std::shared_ptr<GenerateCall> GetCall() {
    absl::MutexLock lock(&mutex_);
    return call_;
  }

  grpc::CallbackServerContext* const context_;
  absl::Mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<GenerateCall> call_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<CallSink> self_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<void> open_ ABSL_GUARDED_BY(mutex_);
};

template <typename Response>
class StreamReactor final : public CallReactor<grpc::ServerWriteReactor<Response>> {
  using Base = CallReactor<grpc::ServerWriteReactor<Response>>;

 public:
  static grpc::ServerWriteReactor<Response>* Start(grpc::CallbackServerContext* context,
                                                   Gateway& gateway, GatewayMetrics::Method method,
                                                   IncomingCall incoming) {
    return Base::Begin(std::make_shared<StreamReactor>(context), gateway, method,
                       std::move(incoming));
  }
  explicit StreamReactor(grpc::CallbackServerContext* context) : Base(context) {}

  void OnWriteDone(bool ok) override {
    std::shared_ptr<GenerateCall> call = this->GetCall();
    {
      absl::MutexLock lock(&this->mutex_);
      this->busy_ = false;
    }
    if (call == nullptr) return;
    if (ok) {
      call->Taken();
      this->Wake();
    } else {
      call->Abort();
    }
  }

 private:
  void Deliver(GenerateCall::Output output) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(this->mutex_) {
    if (auto* status = std::get_if<absl::Status>(&output)) {
      this->finished_ = true;
      this->Finish(ToGrpcStatus(*status));
      return;
    }
    this->busy_ = true;
    if (auto* finished = std::get_if<v1::Finished>(&output)) {
      *response_.mutable_finished() = std::move(*finished);
      this->finished_ = true;
      this->StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
      return;
    }
    if (auto* started = std::get_if<v1::Started>(&output)) {
      *response_.mutable_started() = std::move(*started);
    } else {
      SetDelta(std::move(std::get<AnswerDelta>(output)), &response_);
    }
    this->StartWrite(&response_);
  }

  Response response_;  // gRPC's while busy_
};

template <typename Response>
class UnaryReactor final : public CallReactor<grpc::ServerUnaryReactor> {
  using Base = CallReactor<grpc::ServerUnaryReactor>;

 public:
  static grpc::ServerUnaryReactor* Start(grpc::CallbackServerContext* context, Response* response,
                                         Gateway& gateway, GatewayMetrics::Method method,
                                         IncomingCall incoming) {
    if (incoming.request.ok()) incoming.request->whole = true;
    return Base::Begin(std::make_shared<UnaryReactor>(context, response), gateway, method,
                       std::move(incoming));
  }
  UnaryReactor(grpc::CallbackServerContext* context, Response* response)
      : Base(context), response_(response) {}

 private:
  void Deliver(GenerateCall::Output output) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(this->mutex_) {
    if (auto* status = std::get_if<absl::Status>(&output)) {
      finished_ = true;
      Finish(ToGrpcStatus(*status));
    } else if (auto* finished = std::get_if<v1::Finished>(&output)) {
      SetFinished(*finished, response_);
      finished_ = true;
      Finish(grpc::Status::OK);
    } else {
      if (auto* started = std::get_if<v1::Started>(&output)) {
        *response_->mutable_started() = std::move(*started);
      } else {
        AppendDelta(std::move(std::get<AnswerDelta>(output)), response_);
      }
      call_->Taken();
    }
  }

  Response* const response_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GRPC_CALL_REACTORS_H_
