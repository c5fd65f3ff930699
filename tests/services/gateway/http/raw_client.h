#ifndef QWENSERVE_TESTS_SERVICES_GATEWAY_HTTP_RAW_CLIENT_H_
#define QWENSERVE_TESTS_SERVICES_GATEWAY_HTTP_RAW_CLIENT_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "services/common/net/unique_fd.h"

namespace qwenserve {

// A TCP client that sends what it is told, however wrong that is.
class RawClient {
 public:
  // `address`: 127.0.0.1:PORT.
  explicit RawClient(const std::string& address) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
    to.sin_port = htons(static_cast<uint16_t>(port));
    EXPECT_EQ(connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }

  // False when the server has closed the connection.
  bool Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void FinishSending() { shutdown(fd_.get(), SHUT_WR); }
  void Close() { fd_.reset(); }

  // What has come until `text` is part of it, until the end, or for 20 s.
  const std::string& ReadUntil(absl::string_view text) {
    while (received_.find(std::string(text)) == std::string::npos && ReadSome()) {
    }
    return received_;
  }
  // Until the server closes; `closed` tells whether it did.
  const std::string& ReadAll() {
    while (ReadSome()) {
    }
    return received_;
  }
  // At most so many bytes, if there are any.
  void Read(size_t bytes) {
    std::string piece(bytes, '\0');
    if (recv(fd_.get(), &piece[0], piece.size(), MSG_DONTWAIT) == 0) closed_ = true;
  }
  bool closed() const { return closed_; }
  void Forget() { received_.clear(); }

 private:
  bool ReadSome() {
    pollfd wait{fd_.get(), POLLIN, 0};
    if (closed_ || poll(&wait, 1, 20'000) <= 0) return false;
    char buffer[65536];
    const ssize_t got = recv(fd_.get(), buffer, sizeof(buffer), 0);
    closed_ = got <= 0;
    if (got > 0) received_.append(buffer, static_cast<size_t>(got));
    return got > 0;
  }

  UniqueFd fd_;
  std::string received_;
  bool closed_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GATEWAY_HTTP_RAW_CLIENT_H_
