#include <algorithm>
#include <chrono>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "qwenserve/v1/inference.grpc.pb.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "tools/qwenctl/bench/bench_transport.h"

namespace qwenserve {
namespace {

std::string NameOf(const grpc::Status& status) {
  const absl::Status error = FromGrpcStatus(status);
  const std::string code = absl::StatusCodeToString(error.code());
  const std::string reason = ErrorReason(error);
  return reason.empty() || reason == code ? code : absl::StrCat(code, "/", reason);
}

// One streaming call; deletes itself at its end.
template <typename Request, typename Response>
class StreamCall final : public grpc::ClientReadReactor<Response> {
 public:
  StreamCall(BenchRecorder::Call call, std::function<void(StreamCall*)> done)
      : call_(call), done_(std::move(done)) {}

  Request& request() { return request_; }
  grpc::ClientContext& context() { return context_; }
  void Go() {
    this->StartRead(&response_);
    this->StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.has_delta()) {
      call_.OnTokens(static_cast<uint32_t>(response_.delta().token_ids_size()), BenchNow());
    } else if (response_.has_started()) {
      call_.OnPrompt(response_.started().prompt_tokens());
    }
    this->StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    call_.OnDone(status.ok() ? "" : NameOf(status), BenchNow());
    const std::function<void(StreamCall*)> done = std::move(done_);  // which deletes this
    done(this);
  }

 private:
  grpc::ClientContext context_;
  Request request_;
  Response response_;
  BenchRecorder::Call call_;
  std::function<void(StreamCall*)> done_;
};

using CompleteCall = StreamCall<v1::CompleteRequest, v1::StreamCompleteResponse>;
using ChatCall = StreamCall<v1::ChatRequest, v1::StreamChatResponse>;

class GrpcTransport final : public BenchTransport {
 public:
  GrpcTransport(const BenchOptions& options, const Connection& connection)
      : options_(options), connection_(connection) {
    for (uint32_t i = 0; i < std::max(1u, options.connections); ++i) {
      grpc::ChannelArguments arguments;
      // Else channels to one address would share a connection.
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
      channels_.push_back(connection.MakeChannel(arguments));
      stubs_.push_back(v1::Inference::NewStub(channels_.back()));
    }
  }

  absl::StatusOr<Target> Find(const std::string& model) override {
    grpc::ClientContext context;
    Prepare(context);
    v1::ListModelsResponse models;
    const grpc::Status status = stubs_[0]->ListModels(&context, {}, &models);
    if (!status.ok()) return connection_.Explain(status);
    for (const v1::Model& one : models.models()) {
      if (model.empty() ? models.models_size() == 1 : one.id() == model) {
        return Target{one.id(), one.vocab_size()};
      }
    }
    return absl::NotFoundError(model.empty() ? "--model is needed: none or several are served"
                                             : absl::StrCat("model '", model, "' is not served"));
  }

  void Start(const PlannedRequest& planned, const std::string& model, BenchRecorder::Call call,
             std::function<void()> done) override {
    const size_t stub = planned.number % stubs_.size();
    if (options_.chat) {
      auto* chat = Make<ChatCall>(planned, model, call, std::move(done));
      v1::ChatMessage* message = chat->request().mutable_input()->add_messages();
      message->set_role(v1::ROLE_USER);
      message->set_content(planned.prompt_text);
      stubs_[stub]->async()->StreamChat(&chat->context(), &chat->request(), chat);
      chat->Go();
    } else {
      auto* complete = Make<CompleteCall>(planned, model, call, std::move(done));
      complete->request().mutable_token_ids()->mutable_ids()->Add(planned.prompt_ids.begin(),
                                                                  planned.prompt_ids.end());
      stubs_[stub]->async()->StreamComplete(&complete->context(), &complete->request(), complete);
      complete->Go();
    }
  }

  void CancelAll() override {
    absl::MutexLock lock(&mutex_);
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }

 private:
  void Prepare(grpc::ClientContext& context) const {
    context.set_deadline(
        std::chrono::system_clock::now() +
        std::chrono::milliseconds(static_cast<int64_t>(options_.timeout_seconds * 1000)));
    connection_.Authorize(&context);
  }

  template <typename Call>
  Call* Make(const PlannedRequest& planned, const std::string& model, BenchRecorder::Call recorder,
             std::function<void()> done) {
    auto* call = new Call(recorder, [this, done = std::move(done)](Call* ended) {
      {
        absl::MutexLock lock(&mutex_);
        contexts_.erase(&ended->context());
      }
      delete ended;
      done();
    });
    Prepare(call->context());
    call->request().set_model(model);
    v1::GenerationOptions* options = call->request().mutable_options();
    options->set_max_tokens(planned.max_tokens);
    options->set_ignore_eos(!options_.stop_at_eos);
    options->set_priority(options_.priority);
    options->mutable_sampling()->set_seed(planned.seed);
    absl::MutexLock lock(&mutex_);
    contexts_.insert(&call->context());
    return call;
  }

  const BenchOptions options_;
  const Connection& connection_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  absl::Mutex mutex_;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<BenchTransport> MakeGrpcTransport(const BenchOptions& options,
                                                  const Connection& connection) {
  return std::make_unique<GrpcTransport>(options, connection);
}

}  // namespace qwenserve
