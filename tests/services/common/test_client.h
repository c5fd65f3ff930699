#ifndef QWENSERVE_TESTS_SERVICES_COMMON_TEST_CLIENT_H_
#define QWENSERVE_TESTS_SERVICES_COMMON_TEST_CLIENT_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "services/common/net/unique_fd.h"

namespace qwenserve {

// A blocking TCP connection to "127.0.0.1:PORT"; not ok() when it was refused.
inline UniqueFd Connect(const std::string& address) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return fd;
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&target), sizeof(target)) != 0) fd.reset();
  return fd;
}

// Everything until the peer closes, or "RESET", or "TIMEOUT" after 20 s without a byte.
inline std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  while (true) {
    pollfd wait{fd, POLLIN, 0};
    if (poll(&wait, 1, 20000) <= 0) return "TIMEOUT";
    const ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
    if (got < 0) return "RESET";
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
  }
}

// Polls until `condition` holds; false after 20 s.
inline bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_COMMON_TEST_CLIENT_H_
