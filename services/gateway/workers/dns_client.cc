#include "services/gateway/workers/dns_client.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// How soon `stop` is noticed.
constexpr int kSliceMicroseconds = 100000;

absl::Status Failed(int status) {
  const char* message = ares_strerror(status);
  if (status == ARES_ENOTFOUND || status == ARES_ENODATA) return absl::NotFoundError(message);
  if (status == ARES_ECANCELLED || status == ARES_EDESTRUCTION) {
    return absl::CancelledError(message);
  }
  return absl::UnavailableError(message);
}

// One channel and the questions under way on it.
class Resolver {
 public:
  ~Resolver() {
    if (channel_ != nullptr) ares_destroy(channel_);
  }

  absl::Status Init(const DnsSettings& settings) {
    static std::once_flag once;
    static int library = ARES_SUCCESS;
    std::call_once(once, [] { library = ares_library_init(ARES_LIB_INIT_ALL); });
    if (library != ARES_SUCCESS) return Failed(library);
    ares_options options = {};
    options.timeout = static_cast<int>(absl::ToInt64Milliseconds(settings.timeout));
    options.tries = settings.tries;
    options.sock_state_cb = OnSocket;
    options.sock_state_cb_data = this;
    const int status = ares_init_options(
        &channel_, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
    if (status != ARES_SUCCESS) return Failed(status);
    if (settings.server.empty()) return absl::OkStatus();
    const int set = ares_set_servers_ports_csv(channel_, settings.server.c_str());
    if (set == ARES_SUCCESS) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("'", settings.server, "' is not the numeric address of a DNS server"));
  }

  void Ask(const std::string& host, absl::StatusOr<DnsAnswer>* answer) {
    ++pending_;
    ares_addrinfo_hints hints = {};
    hints.ai_family = AF_UNSPEC;
    hints.ai_flags = ARES_AI_NOSORT;
    // Owned by the callback, which always comes.
    ares_getaddrinfo(channel_, host.c_str(), nullptr, &hints, OnAnswer, new Question{this, answer});
  }

  void Run(const std::function<bool()>& stop) {
    while (pending_ > 0) {
      if (stop()) {
        ares_cancel(channel_);
        return;
      }
      Step();
    }
  }

 private:
  struct Question {
    Resolver* resolver;
    absl::StatusOr<DnsAnswer>* answer;
  };

  static void OnSocket(void* self, ares_socket_t socket, int readable, int writable) {
    auto& sockets = static_cast<Resolver*>(self)->sockets_;
    if (readable == 0 && writable == 0) {
      sockets.erase(socket);
    } else {
      sockets[socket] = static_cast<short>((readable ? POLLIN : 0) | (writable ? POLLOUT : 0));
    }
  }

  static void OnAnswer(void* argument, int status, int timeouts, ares_addrinfo* info) {
    const std::unique_ptr<Question> question(static_cast<Question*>(argument));
    --question->resolver->pending_;
    *question->answer = status == ARES_SUCCESS ? Read(*info) : Failed(status);
    if (info != nullptr) ares_freeaddrinfo(info);
  }

  static absl::StatusOr<DnsAnswer> Read(const ares_addrinfo& info) {
    DnsAnswer answer;
    int ttl = std::numeric_limits<int>::max();
    for (const ares_addrinfo_cname* cname = info.cnames; cname != nullptr; cname = cname->next) {
      ttl = std::min(ttl, cname->ttl);
    }
    for (const ares_addrinfo_node* node = info.nodes; node != nullptr; node = node->ai_next) {
      char text[INET6_ADDRSTRLEN];
      const void* bytes = nullptr;
      if (node->ai_family == AF_INET) {
        bytes = &reinterpret_cast<const sockaddr_in*>(node->ai_addr)->sin_addr;
      } else if (node->ai_family == AF_INET6) {
        bytes = &reinterpret_cast<const sockaddr_in6*>(node->ai_addr)->sin6_addr;
      }
      if (bytes == nullptr) continue;
      if (inet_ntop(node->ai_family, bytes, text, sizeof(text)) == nullptr) continue;
      answer.addresses.emplace_back(text);
      ttl = std::min(ttl, node->ai_ttl);
    }
    if (answer.addresses.empty()) return absl::NotFoundError("no addresses");
    std::sort(answer.addresses.begin(), answer.addresses.end());
    answer.addresses.erase(std::unique(answer.addresses.begin(), answer.addresses.end()),
                           answer.addresses.end());
    answer.ttl = absl::Seconds(std::max(0, ttl));
    return answer;
  }

  // Waits for a socket, or for c-ares' own timeouts.
  void Step() {
    std::vector<pollfd> polled;
    for (const auto& [socket, events] : sockets_) polled.push_back({socket, events, 0});
    timeval most = {0, kSliceMicroseconds};
    timeval wait = {};
    const timeval* next = ares_timeout(channel_, &most, &wait);
    const int milliseconds = static_cast<int>(next->tv_sec * 1000 + next->tv_usec / 1000);
    const int ready = poll(polled.data(), polled.size(), std::max(1, milliseconds));
    if (ready <= 0) {
      ares_process_fd(channel_, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
      return;
    }
    for (const pollfd& one : polled) {
      if (one.revents == 0) continue;
      const bool write = (one.revents & POLLOUT) != 0;
      const bool read = (one.revents & ~POLLOUT) != 0;
      ares_process_fd(channel_, read ? one.fd : ARES_SOCKET_BAD, write ? one.fd : ARES_SOCKET_BAD);
    }
  }

  ares_channel channel_ = nullptr;
  std::map<ares_socket_t, short> sockets_;
  int pending_ = 0;
};

}  // namespace

std::vector<absl::StatusOr<DnsAnswer>> LookUp(const std::vector<std::string>& hosts,
                                              const DnsSettings& settings,
                                              const std::function<bool()>& stop) {
  std::vector<absl::StatusOr<DnsAnswer>> answers(hosts.size(), absl::CancelledError("stopped"));
  if (hosts.empty()) return answers;
  Resolver resolver;
  if (absl::Status status = resolver.Init(settings); !status.ok()) {
    for (absl::StatusOr<DnsAnswer>& answer : answers) answer = status;
    return answers;
  }
  for (size_t i = 0; i < hosts.size(); ++i) resolver.Ask(hosts[i], &answers[i]);
  resolver.Run(stop);
  return answers;
}

absl::Status CheckDnsServer(const std::string& server) {
  DnsSettings settings;
  settings.server = server;
  Resolver resolver;
  return resolver.Init(settings);
}

}  // namespace qwenserve
