#ifndef QWENSERVE_SERVICES_GATEWAY_GRPC_OPEN_CALLS_H_
#define QWENSERVE_SERVICES_GATEWAY_GRPC_OPEN_CALLS_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/gateway/metrics/gateway_metrics.h"

namespace qwenserve {

// Generations that are open on each gRPC connection, to tell when one is at the limit of calls that
// a connection may have: its client's further calls then wait in the client, where nobody sees
// them. gRPC itself tells nothing of it. Thread-safe.
class OpenCalls : public std::enable_shared_from_this<OpenCalls> {
 public:
  // `at_limit` counts the calls with which a connection has `limit` open ones. More of them, as a
  // client that cancels may have the next one here before the cancelled one ends, count too.
  OpenCalls(int limit, Counter* at_limit) : limit_(limit), at_limit_(at_limit) {}

  // The call ends when the last copy of the result does. `connection`: the socket of its peer,
  // IP:PORT; empty, as of a Unix socket: not told from others, so not counted.
  std::shared_ptr<void> Open(const std::string& connection) {
    if (connection.empty()) return nullptr;
    {
      absl::MutexLock lock(&mutex_);
      if (++counts_[connection] >= limit_) at_limit_->Increment();
    }
    return std::shared_ptr<void>(
        nullptr, [self = shared_from_this(), connection](void*) { self->End(connection); });
  }

 private:
  void End(const std::string& connection) {
    absl::MutexLock lock(&mutex_);
    auto found = counts_.find(connection);
    if (--found->second == 0) counts_.erase(found);
  }

  const int limit_;
  Counter* const at_limit_;
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, int> counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GRPC_OPEN_CALLS_H_
