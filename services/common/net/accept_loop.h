#ifndef QWENSERVE_SERVICES_COMMON_NET_ACCEPT_LOOP_H_
#define QWENSERVE_SERVICES_COMMON_NET_ACCEPT_LOOP_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "services/common/net/ip_address.h"
#include "services/common/net/listen_socket.h"
#include "services/common/net/proxied_peers.h"
#include "services/common/net/unique_fd.h"

namespace qwenserve {

// Accepts TCP connections for a server that cannot be trusted to: gRPC 1.51 stops accepting for
// good once the process ran out of file descriptors. This loop sheds connections then and goes on.
//
// A live connection is watched through a duplicate of its descriptor: the duplicate sees a hang-up
// once the owner shut its own down, which is how the loop knows the number of connections. So a
// connection costs two descriptors.
class AcceptLoop {
 public:
  struct Options {
    // Further connections are reset.
    int64_t max_connections = 10000;
    // From one peer address; 0 = no limit of its own.
    int64_t max_connections_per_peer = 0;
    // What connects from here speaks for others, so it is not one peer: it has no limit of its own.
    NetworkList trusted_proxies;
    // And begins with a header of the PROXY protocol, which tells of the peer that counts. Without
    // a good one in time a connection is reset; it holds up no other one.
    bool proxy_protocol = false;
    std::chrono::milliseconds proxy_header_timeout{5'000};
    // Gets the peers that these headers tell of; may be null.
    std::shared_ptr<ProxiedPeers> proxied;
  };

  // Counts since the start, but for `live`, which also has those whose header is not there yet.
  struct Stats {
    int64_t live = 0;
    uint64_t accepted = 0;
    uint64_t refused_limit = 0;        // above max_connections
    uint64_t refused_peer_limit = 0;   // above max_connections_per_peer
    uint64_t refused_descriptors = 0;  // the process had no descriptor left
    uint64_t refused_proxy_header = 0;
  };

  // Takes a non-blocking connection with TCP_NODELAY, ownership included, and the IP address of its
  // peer: the socket's, or the one that a trusted proxy tells of. Called on the loop's thread.
  using Handler = std::function<void(int fd, const std::string& peer)>;

  // Takes over `socket`, listens and starts the thread.
  static absl::StatusOr<std::unique_ptr<AcceptLoop>> Start(ListenSocket socket,
                                                           const Options& options, Handler handler);
  ~AcceptLoop();

  // Closes the listening socket and returns when no handler call will follow. Counting goes on
  // until destruction.
  void StopAccepting();

  Stats stats() const;
  const std::string& address() const { return address_; }

 private:
  struct Connection {
    UniqueFd watch;
    std::string counted_peer;  // empty: none
    std::string proxied;       // the socket's peer when another one counts
  };
  // A connection whose PROXY header is not complete.
  struct Greeting {
    UniqueFd fd;
    std::string peer;
    std::string socket_peer;  // with its port
    std::chrono::steady_clock::time_point deadline;
  };

  AcceptLoop(ListenSocket socket, const Options& options, Handler handler);

  void Run();
  // Accepts until nothing waits. False when the listener must rest for a moment.
  bool AcceptAll();
  bool ShedOne();
  void Handle(UniqueFd fd, const sockaddr_storage& address);
  // Goes on with a greeting, or ends it.
  void OnGreeting(int fd, bool hung_up);
  void RefuseGreeting(int fd);
  void RefuseLateGreetings();
  // `counted`: towards the limit of its peer. `proxied`: the socket's peer if that is another one.
  void Admit(UniqueFd fd, const std::string& peer, bool counted, const std::string& proxied);
  void Forget(int watch);
  void Wake();

  const std::string address_;
  const Options options_;
  const Handler handler_;
  UniqueFd listener_;
  UniqueFd epoll_;
  UniqueFd wake_;   // eventfd
  UniqueFd spare_;  // given up for a moment to accept and reset when descriptors ran out
  std::unordered_map<int, Connection> connections_;  // by watch descriptor; loop's thread only
  std::unordered_map<std::string, int64_t> peers_;   // loop's thread only
  std::unordered_map<int, Greeting> greetings_;      // by descriptor; loop's thread only

  std::atomic<bool> stop_accepting_{false};
  std::atomic<bool> accepting_stopped_{false};
  std::atomic<bool> exit_{false};
  std::atomic<int64_t> live_{0};
  std::atomic<uint64_t> accepted_{0};
  std::atomic<uint64_t> refused_limit_{0};
  std::atomic<uint64_t> refused_peer_limit_{0};
  std::atomic<uint64_t> refused_descriptors_{0};
  std::atomic<uint64_t> refused_proxy_header_{0};
  std::thread thread_;
};

// Raises the soft limit of file descriptors to the hard one and returns it.
int64_t RaiseDescriptorLimit();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_NET_ACCEPT_LOOP_H_
