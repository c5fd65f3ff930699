#include "services/common/ops/health_service.h"

#include <utility>

namespace qwenserve {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using grpc::health::v1::HealthListRequest;
using grpc::health::v1::HealthListResponse;

namespace {

// A probe needs one; more is a leak or an attack.
constexpr size_t kMaxWatches = 256;

}  // namespace

// One Watch call. Everything but OnDone runs under the service's mutex or before it is registered;
// the gRPC calls made there only queue work.
class HealthService::Watcher : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService* service, std::string name) : service_(service), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  void Report(ServingStatus status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_->mutex_) {
    wanted_ = status;
    WriteNext();
  }

  void End(grpc::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_->mutex_) {
    if (ending_) return;
    ending_ = true;
    last_status_ = std::move(status);
    if (!writing_) Finish(last_status_);  // else once the write is done
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&service_->mutex_);
    writing_ = false;
    if (ending_) {
      Finish(last_status_);
    } else if (!ok) {
      End(grpc::Status(grpc::StatusCode::CANCELLED, "the watcher left"));
    } else {
      WriteNext();
    }
  }

  void OnCancel() override {
    absl::MutexLock lock(&service_->mutex_);
    End(grpc::Status(grpc::StatusCode::CANCELLED, "the watcher left"));
  }

  void OnDone() override {
    {
      absl::MutexLock lock(&service_->mutex_);
      service_->watchers_.erase(this);
    }
    delete this;
  }

 private:
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_->mutex_) {
    if (writing_ || ending_ || wanted_ == response_.status()) return;
    response_.set_status(wanted_);
    writing_ = true;
    StartWrite(&response_);
  }

  HealthService* const service_;
  const std::string name_;
  HealthCheckResponse response_;  // UNKNOWN, which is never wanted, until the first write
  ServingStatus wanted_ = HealthCheckResponse::UNKNOWN;
  bool writing_ = false;
  bool ending_ = false;
  grpc::Status last_status_;
};

HealthService::HealthService() { Set("", false); }

HealthService::ServingStatus HealthService::Lookup(const std::string& name) const {
  auto found = statuses_.find(name);
  return found == statuses_.end() ? HealthCheckResponse::SERVICE_UNKNOWN : found->second;
}

void HealthService::Set(const std::string& name, bool serving) {
  absl::MutexLock lock(&mutex_);
  const bool effective = serving && !draining_;
  statuses_[name] = effective ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
  for (Watcher* watcher : watchers_) {
    if (watcher->name() == name) watcher->Report(statuses_[name]);
  }
}

bool HealthService::IsServing(const std::string& name) const {
  absl::ReaderMutexLock lock(&mutex_);
  return Lookup(name) == HealthCheckResponse::SERVING;
}

void HealthService::Drain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  for (auto& [name, status] : statuses_) status = HealthCheckResponse::NOT_SERVING;
  for (Watcher* watcher : watchers_) watcher->Report(Lookup(watcher->name()));
}

void HealthService::CloseWatches() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (Watcher* watcher : watchers_) {
    watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server ends"));
  }
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  auto* reactor = context->DefaultReactor();
  absl::ReaderMutexLock lock(&mutex_);
  const ServingStatus status = Lookup(request->service());
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "unknown service name"));
  } else {
    response->set_status(status);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

grpc::ServerUnaryReactor* HealthService::List(grpc::CallbackServerContext* context,
                                              const HealthListRequest*,
                                              HealthListResponse* response) {
  auto* reactor = context->DefaultReactor();
  absl::ReaderMutexLock lock(&mutex_);
  for (const auto& [name, status] : statuses_) {
    (*response->mutable_statuses())[name].set_status(status);
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  auto* watcher = new Watcher(this, request->service());
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server ends"));
  } else if (watchers_.size() >= kMaxWatches) {
    watcher->End(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watches"));
  } else {
    watchers_.insert(watcher);
    watcher->Report(Lookup(request->service()));
  }
  return watcher;
}

}  // namespace qwenserve
