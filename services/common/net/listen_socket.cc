#include "services/common/net/listen_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

struct HostPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostPort> SplitAddress(absl::string_view address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", address, "' is not HOST:PORT with a port of 0 to 65535"));
  }
  absl::string_view host = address.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!bracketed && host.find(':') != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "': an IPv6 host needs brackets"));
  }
  return HostPort{std::string(host), absl::StrCat(port)};
}

// Numeric form of what the socket is bound to.
void DescribeSocket(ListenSocket& socket) {
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  char text[INET6_ADDRSTRLEN] = "";
  if (getsockname(socket.fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) return;
  if (bound.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(bound);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    socket.address = absl::StrCat("[", text, "]:", ntohs(v6.sin6_port));
    socket.loopback = IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(bound);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    socket.address = absl::StrCat(text, ":", ntohs(v4.sin_port));
    socket.loopback = (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  }
}

}  // namespace

absl::Status CheckHostPort(absl::string_view address) { return SplitAddress(address).status(); }

absl::StatusOr<ListenSocket> BindSocket(absl::string_view address) {
  QS_ASSIGN_OR_RETURN(HostPort target, SplitAddress(address));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* host = target.host.empty() ? nullptr : target.host.c_str();
  if (int error = getaddrinfo(host, target.port.c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve '", address, "': ", gai_strerror(error)));
  }
  ListenSocket socket;
  int last_error = 0;
  for (addrinfo* info = found; info != nullptr && !socket.fd.ok(); info = info->ai_next) {
    UniqueFd fd(::socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int on = 1;
    if (fd.ok()) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd.ok() && bind(fd.get(), info->ai_addr, info->ai_addrlen) == 0) {
      socket.fd = std::move(fd);
    } else {
      last_error = errno;
    }
  }
  freeaddrinfo(found);
  if (!socket.fd.ok()) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on '", address, "': ", std::strerror(last_error)));
  }
  DescribeSocket(socket);
  return socket;
}

}  // namespace qwenserve
