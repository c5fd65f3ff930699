#include "services/common/accept_loop.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// How long the listener rests when the system has no descriptor or memory for a connection.
constexpr int kRestMs = 100;
// Between two rounds other events get their turn.
constexpr int kAcceptsPerRound = 256;

std::string PeerHost(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET6) {
    inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, text,
              sizeof(text));
  } else if (address.ss_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text, sizeof(text));
  }
  return text;
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
  return {live_, accepted_, refused_limit_, refused_peer_limit_, refused_descriptors_};
}

void AcceptLoop::Run() {
  bool resting = false;
  while (!exit_) {
    epoll_event events[64];
    const int count = epoll_wait(epoll_.get(), events, 64, resting ? kRestMs : -1);
    QS_CHECK(count >= 0 || errno == EINTR);
    bool accept = resting;
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == wake_.get()) {
        uint64_t value;
        [[maybe_unused]] ssize_t got = read(fd, &value, sizeof(value));
      } else if (fd == listener_.get()) {
        accept = true;
      } else {
        Forget(fd);
      }
    }
    if (stop_accepting_ && listener_.ok()) {
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
      Handle(std::move(fd), PeerHost(peer));
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

void AcceptLoop::Handle(UniqueFd fd, const std::string& peer) {
  if (live_ >= options_.max_connections) {
    ++refused_limit_;
    return Reset(std::move(fd));
  }
  const int64_t per_peer = options_.max_connections_per_peer;
  auto known = peers_.find(peer);
  if (per_peer > 0 && known != peers_.end() && known->second >= per_peer) {
    ++refused_peer_limit_;
    return Reset(std::move(fd));
  }
  UniqueFd watch(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!watch.ok() || !Watch(epoll_.get(), watch.get(), 0)) {
    ++refused_descriptors_;
    return Reset(std::move(fd));
  }
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  ++peers_[peer];
  ++live_;
  ++accepted_;
  const int key = watch.get();
  connections_.emplace(key, Connection{std::move(watch), peer});
  handler_(fd.release());
}

void AcceptLoop::Forget(int watch) {
  auto found = connections_.find(watch);
  if (found == connections_.end()) return;
  auto peer = peers_.find(found->second.peer);
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
