#ifndef QWENSERVE_SERVICES_COMMON_NET_PROXIED_PEERS_H_
#define QWENSERVE_SERVICES_COMMON_NET_PROXIED_PEERS_H_

#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace qwenserve {

// Whom the open connections of a port speak for, by the socket's peer (IP:PORT, [V6]:PORT): for a
// server that tells of a call nothing but that, as gRPC does. Only those that a proxy has told of.
// Thread-safe.
class ProxiedPeers {
 public:
  void Put(const std::string& socket_peer, int connection, const std::string& client) {
    absl::MutexLock lock(&mutex_);
    clients_[socket_peer] = {connection, client};
  }
  // Unless another connection has come from there by now.
  void Remove(const std::string& socket_peer, int connection) {
    absl::MutexLock lock(&mutex_);
    auto found = clients_.find(socket_peer);
    if (found != clients_.end() && found->second.first == connection) clients_.erase(found);
  }
  // Empty: none.
  std::string Find(const std::string& socket_peer) const {
    absl::ReaderMutexLock lock(&mutex_);
    auto found = clients_.find(socket_peer);
    return found == clients_.end() ? "" : found->second.second;
  }

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::pair<int, std::string>> clients_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_NET_PROXIED_PEERS_H_
