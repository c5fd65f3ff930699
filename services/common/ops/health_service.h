#ifndef QWENSERVE_SERVICES_COMMON_OPS_HEALTH_SERVICE_H_
#define QWENSERVE_SERVICES_COMMON_OPS_HEALTH_SERVICE_H_

#include <map>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace qwenserve {

// grpc.health.v1 for one process. The name "" is the process, the others are models. Ours rather
// than gRPC's own because reflection lists only compiled services. Thread-safe.
class HealthService : public grpc::health::v1::Health::CallbackService {
 public:
  HealthService();

  void Set(const std::string& name, bool serving);
  bool IsServing(const std::string& name) const;

  // Turns every name to NOT_SERVING for good: later Sets change nothing.
  void Drain();
  // Ends the open Watch calls and refuses new ones, so that the server can shut down.
  void CloseWatches();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const grpc::health::v1::HealthListRequest* request,
                                 grpc::health::v1::HealthListResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;
  using ServingStatus = grpc::health::v1::HealthCheckResponse::ServingStatus;

  ServingStatus Lookup(const std::string& name) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<std::string, ServingStatus> statuses_ ABSL_GUARDED_BY(mutex_);
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_OPS_HEALTH_SERVICE_H_
