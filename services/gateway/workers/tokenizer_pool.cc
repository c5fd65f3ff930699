#include "services/gateway/workers/tokenizer_pool.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/client_context.h"
#include "kernels/check.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/grpc_settings.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

void SetTimeout(grpc::ClientContext& context, absl::Duration timeout) {
  // gRPC's own clock, because ours need not be the system's.
  context.set_deadline(std::chrono::system_clock::now() +
                       absl::ToChronoMicroseconds(std::min(timeout, absl::Hours(24))));
}

absl::Status Lost(absl::string_view message) {
  return WithRetryAfter(WithReason(absl::UnavailableError(message), kReasonWorkerLost),
                        absl::Seconds(1));
}

// A worker's own error is passed on; one of the link, recognised by having no reason, says
// addresses and is replaced.
absl::Status ForClient(const grpc::Status& status) {
  absl::Status error = FromGrpcStatus(status);
  if (error.ok() || !ErrorReason(error).empty()) return error;
  if (absl::IsDeadlineExceeded(error)) return absl::DeadlineExceededError("deadline exceeded");
  if (absl::IsCancelled(error)) return absl::CancelledError("cancelled");
  if (absl::IsUnavailable(error)) return Lost("the tokenizer was lost");
  return absl::InternalError("the tokenizer failed");
}

}  // namespace

struct TokenizerPool::PrepareOperation {
  v1::PrepareRequest request;
  Kind kind;
  absl::Time deadline;
  PrepareCallback done;
  std::set<std::string> tried;  // addresses

  // The present attempt's; replaced only when it is over.
  v1::PrepareResponse response;
  std::string address;
  absl::Mutex mutex;
  std::unique_ptr<grpc::ClientContext> context ABSL_GUARDED_BY(mutex);
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  bool abandoned ABSL_GUARDED_BY(mutex) = false;  // the attempt, its worker is given up

  void Cancel() {
    absl::MutexLock lock(&mutex);
    cancelled = true;
    if (context != nullptr) context->TryCancel();
  }

  bool IsCancelled() {
    absl::MutexLock lock(&mutex);
    return cancelled;
  }

  void Abandon() {
    absl::MutexLock lock(&mutex);
    abandoned = true;
    context->TryCancel();
  }

  // Whether the attempt failed because its worker left: it was given up here, or it shut down,
  // which ends calls with CANCELLED.
  bool WorkerLeft(const grpc::Status& status) {
    absl::MutexLock lock(&mutex);
    return !cancelled && (abandoned || status.error_code() == grpc::StatusCode::CANCELLED);
  }
};

struct TokenizerPool::DescribeOperation {
  grpc::ClientContext context;
  v1::DescribeRequest request;
  v1::DescribeResponse response;
  std::shared_ptr<v1::Tokenizer::Stub> stub;
};

TokenizerPool::TokenizerPool(const TokenizerSettings& settings, std::function<void()> on_change,
                             Clock clock, GatewayMetrics* metrics)
    : settings_(settings),
      on_change_(std::move(on_change)),
      clock_(std::move(clock)),
      metrics_(metrics) {}

TokenizerPool::~TokenizerPool() {
  absl::MutexLock lock(&mutex_);
  QS_CHECK(shut_down_ || endpoints_.empty());
}

void TokenizerPool::SetAddresses(const std::vector<std::string>& addresses) {
  const std::set<std::string> listed(addresses.begin(), addresses.end());
  absl::MutexLock lock(&mutex_);
  for (auto& [address, endpoint] : endpoints_) endpoint.listed = listed.count(address) > 0;
  for (const std::string& address : listed) {
    Endpoint& endpoint = endpoints_[address];
    if (endpoint.prepare_stub != nullptr) continue;
    for (auto* stub : {&endpoint.prepare_stub, &endpoint.detokenize_stub}) {
      channels_.push_back(MakeWorkerChannel(address, settings_.credentials));
      *stub = v1::Tokenizer::NewStub(channels_.back());
    }
  }
}

void TokenizerPool::Tick(absl::Time now) {
  std::vector<std::shared_ptr<grpc::Channel>> gone;  // without the lock: gRPC may wait for threads
  std::vector<std::shared_ptr<DetokenizeStream>> unlisted;
  std::vector<std::shared_ptr<DetokenizeStream>> stuck;
  std::vector<TextItem> retry;
  std::vector<TextItem> expired;
  std::vector<std::function<void()>> deferred;
  bool changed = false;
  int ready = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (shut_down_) return;
    for (auto it = endpoints_.begin(); it != endpoints_.end();) {
      Endpoint& endpoint = it->second;
      if (endpoint.stream != nullptr && endpoint.stream->lost()) {
        ending_.emplace_back(it->first, std::exchange(endpoint.stream, nullptr));
        for (const auto& operation : preparing_) {
          if (operation->address == it->first) operation->Abandon();
        }
        endpoint.backoff.OnFailure(now);
        changed = true;
      }
      const bool used = endpoint.stream != nullptr || endpoint.describing != nullptr;
      if (!endpoint.listed && endpoint.stream != nullptr) unlisted.push_back(endpoint.stream);
      if (!endpoint.listed && !used && endpoint.prepares == 0) {
        it = endpoints_.erase(it);
        changed = true;
        continue;
      }
      if (endpoint.stream != nullptr && endpoint.stream->OldestAge() > settings_.item_timeout) {
        stuck.push_back(endpoint.stream);
      }
      const bool due =
          endpoint.stream != nullptr ? now >= endpoint.next_describe : endpoint.backoff.Due(now);
      if (endpoint.listed && endpoint.describing == nullptr && due) {
        StartDescribe(it->first, endpoint);
      }
      ready += IsReady(endpoint);
      ++it;
    }
    ReviewEnding();
    const auto unused = std::partition(channels_.begin(), channels_.end(),
                                       [](const auto& channel) { return channel.use_count() > 1; });
    gone.assign(std::make_move_iterator(unused), std::make_move_iterator(channels_.end()));
    channels_.erase(unused, channels_.end());
    for (TextItem& orphan : orphans_) {
      const bool over = now - orphan.since > settings_.no_worker_grace;
      (over ? expired : retry).push_back(std::move(orphan));
    }
    orphans_.clear();
    deferred = std::exchange(deferred_, {});
    for (auto& function : EndWaitingPrepares(now)) deferred.push_back(std::move(function));
  }
  metrics_->tokenizers_ready.Set(ready);
  for (const auto& stream : unlisted) stream->Leave();
  for (const auto& stream : stuck) stream->Close();
  for (TextItem& item : retry) Place(std::move(item));
  for (TextItem& item : expired) {
    item.listener->OnTextFailed(item.item.key(), Lost("no tokenizer is left for the answer"));
  }
  for (const auto& function : deferred) function();
  if (!retry.empty()) Flush();
  if (changed) on_change_();
}

void TokenizerPool::StartDescribe(const std::string& address, Endpoint& endpoint) {
  auto operation = std::make_shared<DescribeOperation>();
  operation->stub = endpoint.prepare_stub;
  SetTimeout(operation->context, settings_.describe_timeout);
  endpoint.describing = operation;
  ++operations_;
  operation->stub->async()->Describe(
      &operation->context, &operation->request, &operation->response,
      [this, address, operation](const grpc::Status& status) mutable {
        OnDescribed(address, std::move(operation), status);
      });
}

void TokenizerPool::OnDescribed(const std::string& address,
                                std::shared_ptr<DescribeOperation> operation,
                                const grpc::Status& status) {
  std::shared_ptr<DetokenizeStream> give_up;
  bool changed = false;
  {
    absl::MutexLock lock(&mutex_);
    auto found = endpoints_.find(address);
    if (!shut_down_ && found != endpoints_.end()) {
      Endpoint& endpoint = found->second;
      const absl::Time now = clock_();
      endpoint.describing = nullptr;
      endpoint.next_describe = now + settings_.describe_interval;
      const std::string reason = status.ok() ? "" : status.error_message();
      if (!status.ok()) {
        if (reason != endpoint.reason) spdlog::warn("tokenizer at {}: {}", address, reason);
        give_up = endpoint.stream;
        if (give_up == nullptr) endpoint.backoff.OnFailure(now);
      } else {
        const std::string& hash = operation->response.tokenizer_hash();
        changed = !endpoint.description.has_value() || endpoint.stream == nullptr ||
                  endpoint.description->tokenizer_hash() != hash;
        endpoint.description = std::move(operation->response);
        endpoint.backoff.OnSuccess();
        if (endpoint.stream == nullptr) {
          spdlog::info("tokenizer {} at {} is connected, model {}",
                       endpoint.description->instance_id(), address, endpoint.description->model());
          OpenStream(endpoint);
          StartWaitingPrepares();
        }
      }
      endpoint.reason = reason;
    }
  }
  if (give_up != nullptr) std::exchange(give_up, nullptr)->Close();
  if (changed) on_change_();
  EndOperation(std::move(operation));
}

template <typename Operation>
void TokenizerPool::EndOperation(std::shared_ptr<Operation> operation) {
  // Before Shutdown goes on: a channel that goes away on one of gRPC's own threads may have it
  // wait for itself, so this must not be the last owner, nor of a stream. Nor the function that
  // gRPC has called: it gives its own reference away.
  operation.reset();
  absl::MutexLock lock(&mutex_);
  --operations_;
}

void TokenizerPool::OpenStream(Endpoint& endpoint) {
  DetokenizeStream::Hooks hooks;
  hooks.on_results = [this] { Flush(); };
  hooks.on_lost = [this](std::vector<TextItem> items) { TakeBack(std::move(items)); };
  const int max_items = static_cast<int>(
      std::min<uint32_t>(endpoint.description->limits().max_items_per_detokenize(), 65536));
  hooks.texts = TextsOf(endpoint.description->tokenizer_hash());
  endpoint.stream = std::make_shared<DetokenizeStream>(std::move(hooks), clock_, max_items);
  endpoint.stream->Open(endpoint.detokenize_stub.get());
}

void TokenizerPool::ReviewEnding() {
  const auto done = std::partition(ending_.begin(), ending_.end(),
                                   [](const auto& ending) { return !ending.second->done(); });
  for (auto ending = done; ending != ending_.end(); ++ending) {
    const auto& [address, stream] = *ending;
    if (stream->in_order()) {
      spdlog::info("tokenizer at {} has left", address);
    } else {
      spdlog::warn("tokenizer at {} is lost", address);
      metrics_->tokenizers_lost.Increment();
    }
  }
  ending_.erase(done, ending_.end());
}

std::shared_ptr<TokenTexts> TokenizerPool::TextsOf(const std::string& tokenizer_hash) {
  // Those that no stream and no call uses belong to models that are gone.
  for (auto it = texts_.begin(); it != texts_.end();) {
    it = it->second.use_count() == 1 && it->first != tokenizer_hash ? texts_.erase(it) : ++it;
  }
  std::shared_ptr<TokenTexts>& texts = texts_[tokenizer_hash];
  if (texts == nullptr) texts = std::make_shared<TokenTexts>();
  return texts;
}

std::shared_ptr<const TokenTexts> TokenizerPool::KnownTexts(const std::string& tokenizer_hash) {
  absl::MutexLock lock(&mutex_);
  const auto found = texts_.find(tokenizer_hash);
  return found == texts_.end() ? nullptr : found->second;
}

void TokenizerPool::Detokenize(v1::DetokenizeItem item, const std::string& tokenizer_hash,
                               std::shared_ptr<TextListener> listener) {
  TextItem text_item;
  text_item.item = std::move(item);
  text_item.tokenizer_hash = tokenizer_hash;
  text_item.listener = std::move(listener);
  text_item.since = clock_();
  Place(std::move(text_item));
}

void TokenizerPool::Place(TextItem item) {
  absl::MutexLock lock(&mutex_);
  std::vector<DetokenizeStream*> streams;
  for (const auto& [address, endpoint] : endpoints_) {
    if (endpoint.stream == nullptr || endpoint.stream->lost()) continue;
    if (endpoint.description->tokenizer_hash() != item.tokenizer_hash) continue;
    streams.push_back(endpoint.stream.get());
  }
  // The same worker for all items of a sequence, as long as the set of workers stays: it is then
  // likely to share a message with those that it shared one with before.
  if (!streams.empty() && streams[item.item.key() % streams.size()]->Add(std::move(item))) return;
  orphans_.push_back(std::move(item));
}

void TokenizerPool::TakeBack(std::vector<TextItem> items) {
  std::vector<TextItem> poison;
  const absl::Time now = clock_();
  for (TextItem& item : items) {
    item.since = now;
    if (item.losses >= settings_.max_item_losses) {
      poison.push_back(std::move(item));
    } else {
      Place(std::move(item));
    }
  }
  Flush();
  for (TextItem& item : poison) {
    item.listener->OnTextFailed(
        item.item.key(), WithReason(absl::InternalError("several tokenizers were lost at the same "
                                                        "piece of the answer"),
                                    kReasonSuspectedPoison));
  }
}

void TokenizerPool::Flush() {
  std::vector<std::shared_ptr<DetokenizeStream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [address, endpoint] : endpoints_) {
      if (endpoint.stream != nullptr) streams.push_back(endpoint.stream);
    }
  }
  for (const auto& stream : streams) stream->Flush();
}

std::function<void()> TokenizerPool::Prepare(v1::PrepareRequest request,
                                             const std::string& tokenizer_hash, absl::Time deadline,
                                             PrepareCallback done) {
  auto operation = std::make_shared<PrepareOperation>();
  operation->kind = {request.model(), tokenizer_hash};
  operation->request = std::move(request);
  operation->deadline = deadline;
  operation->done = std::move(done);
  absl::MutexLock lock(&mutex_);
  if (!StartOrQueuePrepare(operation)) {
    deferred_.push_back([operation] { operation->done(Lost("no tokenizer is ready")); });
  }
  return [operation] { operation->Cancel(); };
}

bool TokenizerPool::CanPrepare(const Endpoint& endpoint, const Kind& kind) const {
  const auto& [model, tokenizer_hash] = kind;
  return IsReady(endpoint) && endpoint.description->tokenizer_hash() == tokenizer_hash &&
         (model.empty() || endpoint.description->model() == model);
}

bool TokenizerPool::StartOrQueuePrepare(const std::shared_ptr<PrepareOperation>& operation) {
  if (shut_down_) return false;
  const std::string* address = nullptr;
  Endpoint* best = nullptr;
  for (auto& [name, endpoint] : endpoints_) {
    if (!CanPrepare(endpoint, operation->kind) || operation->tried.count(name) > 0) continue;
    if (best != nullptr && endpoint.prepares >= best->prepares) continue;
    best = &endpoint;
    address = &name;
  }
  if (best == nullptr) return false;
  if (best->prepares < settings_.max_prepares_per_worker) {
    StartPrepare(*address, *best, operation);
  } else {
    waiting_prepares_[operation->kind].push_back(operation);
  }
  return true;
}

void TokenizerPool::StartPrepare(const std::string& address, Endpoint& endpoint,
                                 const std::shared_ptr<PrepareOperation>& operation) {
  operation->address = address;
  operation->tried.insert(address);
  preparing_.insert(operation);
  ++endpoint.prepares;
  ++operations_;
  absl::MutexLock operation_lock(&operation->mutex);
  operation->response.Clear();
  operation->context = std::make_unique<grpc::ClientContext>();
  operation->abandoned = false;
  SetTimeout(*operation->context, operation->deadline - clock_());
  if (operation->cancelled) operation->context->TryCancel();
  endpoint.prepare_stub->async()->Prepare(
      operation->context.get(), &operation->request, &operation->response,
      [this, own = operation](const grpc::Status& status) mutable {
        OnPrepareDone(std::move(own), status);
      });
}

void TokenizerPool::StartWaitingPrepares() {
  for (auto waiting = waiting_prepares_.begin(); waiting != waiting_prepares_.end();) {
    auto& [kind, operations] = *waiting;
    for (auto& [address, endpoint] : endpoints_) {
      if (!CanPrepare(endpoint, kind)) continue;
      for (auto it = operations.begin();
           it != operations.end() && endpoint.prepares < settings_.max_prepares_per_worker;) {
        if ((*it)->tried.count(address) > 0) {
          ++it;
          continue;
        }
        StartPrepare(address, endpoint, *it);
        it = operations.erase(it);
      }
    }
    waiting = operations.empty() ? waiting_prepares_.erase(waiting) : std::next(waiting);
  }
}

std::vector<std::function<void()>> TokenizerPool::EndWaitingPrepares(absl::Time now) {
  std::vector<std::function<void()>> ended;
  for (auto& [kind, operations] : waiting_prepares_) {
    std::vector<const std::string*> workers;
    for (const auto& [address, endpoint] : endpoints_) {
      if (CanPrepare(endpoint, kind)) workers.push_back(&address);
    }
    operations.remove_if([&](const std::shared_ptr<PrepareOperation>& operation) {
      const bool hopeless = std::all_of(workers.begin(), workers.end(), [&](const auto* address) {
        return operation->tried.count(*address) > 0;
      });
      absl::Status status;
      if (operation->IsCancelled() || shut_down_) {
        status = absl::CancelledError("cancelled");
      } else if (now >= operation->deadline) {
        status = absl::DeadlineExceededError("deadline exceeded");
      } else if (hopeless) {
        status = Lost("no tokenizer is ready");
      } else {
        return false;
      }
      ended.push_back([operation, status] { operation->done(status); });
      return true;
    });
  }
  for (auto it = waiting_prepares_.begin(); it != waiting_prepares_.end();) {
    it = it->second.empty() ? waiting_prepares_.erase(it) : std::next(it);
  }
  return ended;
}

void TokenizerPool::OnPrepareDone(std::shared_ptr<PrepareOperation> operation,
                                  const grpc::Status& status) {
  const bool left = !status.ok() && operation->WorkerLeft(status);
  const absl::Status error = left ? Lost("the tokenizer was lost") : ForClient(status);
  bool retry = false;
  {
    absl::MutexLock lock(&mutex_);
    preparing_.erase(operation);
    auto found = endpoints_.find(operation->address);
    if (found != endpoints_.end()) --found->second.prepares;
    retry = ErrorReason(error) == kReasonWorkerLost && StartOrQueuePrepare(operation);
    StartWaitingPrepares();
  }
  if (!retry) {
    if (error.ok()) {
      operation->done(std::move(operation->response));
    } else {
      operation->done(error);
    }
  }
  EndOperation(std::move(operation));
}

void TokenizerPool::Shutdown() {
  std::vector<std::shared_ptr<DetokenizeStream>> streams;
  std::vector<TextItem> orphans;
  std::vector<std::function<void()>> deferred;
  {
    absl::MutexLock lock(&mutex_);
    shut_down_ = true;
    for (auto& [address, endpoint] : endpoints_) {
      if (endpoint.stream != nullptr) streams.push_back(endpoint.stream);
      if (endpoint.describing != nullptr) endpoint.describing->context.TryCancel();
    }
    for (const auto& operation : preparing_) operation->Cancel();
    deferred = EndWaitingPrepares(clock_());
    for (const auto& [address, stream] : ending_) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->Close();
  for (const auto& stream : streams) stream->WaitDone();
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* operations) { return *operations == 0; }, &operations_));
    endpoints_.clear();
    for (TextItem& item : orphans_) orphans.push_back(std::move(item));
    orphans_.clear();
    for (auto& function : std::exchange(deferred_, {})) deferred.push_back(std::move(function));
  }
  for (TextItem& item : orphans) {
    item.listener->OnTextFailed(item.item.key(), Lost("the gateway shuts down"));
  }
  for (const auto& function : deferred) function();
}

std::vector<KnownTokenizer> TokenizerPool::Known() const {
  std::vector<KnownTokenizer> known;
  absl::MutexLock lock(&mutex_);
  for (const auto& [address, endpoint] : endpoints_) {
    if (!endpoint.description.has_value()) continue;
    known.push_back({*endpoint.description, IsReady(endpoint) && endpoint.listed});
  }
  return known;
}

void TokenizerPool::FillStatus(v1::GetStatusResponse* status) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [address, endpoint] : endpoints_) {
    v1::WorkerStatus* worker = status->add_workers();
    worker->set_role("tokenizer");
    worker->set_address(address);
    worker->set_reason(endpoint.reason);
    worker->set_state(IsReady(endpoint) ? v1::PROCESS_STATE_SERVING
                                        : v1::PROCESS_STATE_NOT_SERVING);
    worker->set_requests_in_flight(endpoint.prepares);
    if (!endpoint.description.has_value()) continue;
    worker->set_instance_id(endpoint.description->instance_id());
    worker->set_model(endpoint.description->model());
  }
}

}  // namespace qwenserve
