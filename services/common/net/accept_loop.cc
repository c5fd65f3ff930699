#include "services/common/net/accept_loop.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "services/common/net/proxy_header.h"

namespace qwenserve {
namespace {

// How long the listener rests when the system has no descriptor or memory for a connection.
constexpr int kRestMs = 100;
// Between two rounds other events get their turn.
constexpr int kAcceptsPerRound = 256;

// How often greetings that are late are looked for.
constexpr int kGreetingTickMs = 100;

std::string WithPort(const IpAddress& address, const sockaddr_storage& socket) {
  const uint16_t port =
      ntohs(socket.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(socket).sin6_port
                                         : reinterpret_cast<const sockaddr_in&>(socket).sin_port);
  const std::string host = address.ToString();
  return address.v4() ? absl::StrCat(host, ":", port) : absl::StrCat("[", host, "]:", port);
}

UniqueFd OpenSpare() { return UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

// A reset tells the client at once and leaves no TIME_WAIT here.
void Reset(UniqueFd fd) {
  const linger reset{1, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

// Hang-ups and errors are reported whatever `events` says.
bool Watch(int epoll, int fd, uint32_t events, int operation = EPOLL_CTL_ADD) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  return epoll_ctl(epoll, operation, fd, &event) == 0;
}

}  // namespace

AcceptLoop::AcceptLoop(ListenSocket socket, const Options& options, Handler handler)
    : address_(socket.address),
      options_(options),
      handler_(std::move(handler)),
      listener_(std::move(socket.fd)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      spare_(OpenSpare()) {}

absl::StatusOr<std::unique_ptr<AcceptLoop>> AcceptLoop::Start(ListenSocket socket,
                                                              const Options& options,
                                                              Handler handler) {
  std::unique_ptr<AcceptLoop> loop(new AcceptLoop(std::move(socket), options, std::move(handler)));
  if (!loop->epoll_.ok() || !loop->wake_.ok() || !loop->spare_.ok() ||
      listen(loop->listener_.get(), SOMAXCONN) != 0 ||
      !Watch(loop->epoll_.get(), loop->wake_.get(), EPOLLIN) ||
      !Watch(loop->epoll_.get(), loop->listener_.get(), EPOLLIN)) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", loop->address_, ": ", std::strerror(errno)));
  }
  loop->thread_ = std::thread([raw = loop.get()] { raw->Run(); });
  return loop;
}

AcceptLoop::~AcceptLoop() {
  exit_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
}

void AcceptLoop::Wake() {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the loop is awake anyway.
  [[maybe_unused]] ssize_t written = write(wake_.get(), &one, sizeof(one));
}

void AcceptLoop::StopAccepting() {
  stop_accepting_ = true;
  Wake();
  accepting_stopped_.wait(false);
}

AcceptLoop::Stats AcceptLoop::stats() const {
  return {live_,
          accepted_,
          refused_limit_,
          refused_peer_limit_,
          refused_descriptors_,
          refused_proxy_header_};
}

void AcceptLoop::Run() {
  bool resting = false;
  while (!exit_) {
    epoll_event events[64];
    const int timeout = resting ? kRestMs : greetings_.empty() ? -1 : kGreetingTickMs;
    const int count = epoll_wait(epoll_.get(), events, 64, timeout);
    QS_CHECK(count >= 0 || errno == EINTR);
    bool accept = resting;
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == wake_.get()) {
        uint64_t value;
        [[maybe_unused]] ssize_t got = read(fd, &value, sizeof(value));
      } else if (fd == listener_.get()) {
        accept = true;
      } else if (greetings_.count(fd) > 0) {
        OnGreeting(fd, (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
      } else {
        Forget(fd);
      }
    }
    if (!greetings_.empty()) RefuseLateGreetings();
    if (stop_accepting_ && listener_.ok()) {
      live_ -= static_cast<int64_t>(greetings_.size());
      greetings_.clear();
      listener_.reset();  // leaves the epoll set by being closed
      resting = false;
      accepting_stopped_ = true;
      accepting_stopped_.notify_all();
    }
    if (accept && listener_.ok()) {
      const bool rest = !AcceptAll();
      // A waiting connection would wake the loop again at once.
      if (rest != resting) Watch(epoll_.get(), listener_.get(), rest ? 0u : EPOLLIN, EPOLL_CTL_MOD);
      resting = rest;
    }
  }
  listener_.reset();
  accepting_stopped_ = true;
  accepting_stopped_.notify_all();
}

bool AcceptLoop::AcceptAll() {
  for (int i = 0; i < kAcceptsPerRound; ++i) {
    sockaddr_storage peer{};
    socklen_t length = sizeof(peer);
    UniqueFd fd(accept4(listener_.get(), reinterpret_cast<sockaddr*>(&peer), &length,
                        SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd.ok()) {
      Handle(std::move(fd), peer);
      continue;
    }
    switch (errno) {
      case EAGAIN:
        return true;
      case EMFILE:
      case ENFILE:
        if (!ShedOne()) return false;
        break;
      case ENOBUFS:
      case ENOMEM:
        return false;
      default:
        break;  // the connection died while it waited, or a signal came
    }
  }
  return true;
}

bool AcceptLoop::ShedOne() {
  spare_.reset();
  UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  const bool shed = fd.ok();
  if (shed) {
    ++refused_descriptors_;
    Reset(std::move(fd));
  }
  spare_ = OpenSpare();
  return shed;
}

void AcceptLoop::Handle(UniqueFd fd, const sockaddr_storage& address) {
  if (live_ >= options_.max_connections) {
    ++refused_limit_;
    return Reset(std::move(fd));
  }
  ++live_;
  const std::optional<IpAddress> peer = IpAddress::FromSocket(address);
  const bool trusted = peer.has_value() && options_.trusted_proxies.Contains(*peer);
  const std::string name = peer.has_value() ? peer->ToString() : "";
  if (!trusted || !options_.proxy_protocol) return Admit(std::move(fd), name, !trusted, "");
  // Each arrival wakes the loop once, although nothing is read before the header is complete.
  if (!Watch(epoll_.get(), fd.get(), EPOLLIN | EPOLLRDHUP | EPOLLET)) {
    --live_;
    ++refused_descriptors_;
    return Reset(std::move(fd));
  }
  const int key = fd.get();
  greetings_.emplace(key,
                     Greeting{std::move(fd), name, WithPort(*peer, address),
                              std::chrono::steady_clock::now() + options_.proxy_header_timeout});
}

void AcceptLoop::OnGreeting(int fd, bool hung_up) {
  char start[kMaxProxyHeaderBytes];
  const ssize_t got = recv(fd, start, sizeof(start), MSG_PEEK);
  if (got < 0 && (errno == EAGAIN || errno == EINTR) && !hung_up) return;
  if (got <= 0) return RefuseGreeting(fd);
  const ProxyHeader header = ParseProxyHeader(absl::string_view(start, static_cast<size_t>(got)));
  if (header.state == ProxyHeader::State::kIncomplete && !hung_up) return;
  // What was looked at is there to be read.
  if (header.state != ProxyHeader::State::kComplete ||
      recv(fd, start, header.bytes, 0) != static_cast<ssize_t>(header.bytes)) {
    return RefuseGreeting(fd);
  }
  auto found = greetings_.find(fd);
  Greeting greeting = std::move(found->second);
  greetings_.erase(found);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  // A proxy that speaks for itself asks whether we are there.
  if (!header.client.has_value()) return Admit(std::move(greeting.fd), greeting.peer, false, "");
  Admit(std::move(greeting.fd), header.client->ToString(),
        !options_.trusted_proxies.Contains(*header.client), greeting.socket_peer);
}

void AcceptLoop::RefuseGreeting(int fd) {
  auto found = greetings_.find(fd);
  --live_;
  ++refused_proxy_header_;
  Reset(std::move(found->second.fd));
  greetings_.erase(found);
}

void AcceptLoop::RefuseLateGreetings() {
  const auto now = std::chrono::steady_clock::now();
  std::vector<int> late;
  for (const auto& [fd, greeting] : greetings_) {
    if (greeting.deadline <= now) late.push_back(fd);
  }
  for (const int fd : late) RefuseGreeting(fd);
}

void AcceptLoop::Admit(UniqueFd fd, const std::string& peer, bool counted,
                       const std::string& proxied) {
  const int64_t per_peer = options_.max_connections_per_peer;
  auto known = peers_.find(peer);
  if (counted && per_peer > 0 && known != peers_.end() && known->second >= per_peer) {
    --live_;
    ++refused_peer_limit_;
    return Reset(std::move(fd));
  }
  UniqueFd watch(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!watch.ok() || !Watch(epoll_.get(), watch.get(), 0)) {
    --live_;
    ++refused_descriptors_;
    return Reset(std::move(fd));
  }
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (counted) ++peers_[peer];
  ++accepted_;
  const int key = watch.get();
  if (!proxied.empty() && options_.proxied != nullptr) options_.proxied->Put(proxied, key, peer);
  connections_.emplace(key, Connection{std::move(watch), counted ? peer : "", proxied});
  handler_(fd.release(), peer);
}

void AcceptLoop::Forget(int watch) {
  auto found = connections_.find(watch);
  if (found == connections_.end()) return;
  const std::string& proxied = found->second.proxied;
  if (!proxied.empty() && options_.proxied != nullptr) options_.proxied->Remove(proxied, watch);
  auto peer = peers_.find(found->second.counted_peer);
  if (peer != peers_.end() && --peer->second <= 0) peers_.erase(peer);
  // Closing the duplicate alone would not do: an entry lives as long as the owner's descriptor.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watch, nullptr);
  connections_.erase(found);
  --live_;
}

int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace qwenserve
