#ifndef QWENSERVE_SERVICES_COMMON_NET_IP_ADDRESS_H_
#define QWENSERVE_SERVICES_COMMON_NET_IP_ADDRESS_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// An IPv4 or IPv6 address as a number. IPv4 within IPv6 (::ffff:1.2.3.4) is IPv4, so that one host
// has one address whichever way it came.
class IpAddress {
 public:
  // Numeric, without port, brackets or zone.
  static std::optional<IpAddress> Parse(absl::string_view text);
  static std::optional<IpAddress> FromSocket(const sockaddr_storage& address);
  // 4 or 16 bytes in network order.
  static IpAddress FromBytes(const uint8_t* bytes, size_t count);

  bool v4() const { return v4_; }
  std::string ToString() const;
  // The first `bits` are the same, and the family.
  bool SharesPrefix(const IpAddress& other, int bits) const;

 private:
  bool v4_ = false;
  std::array<uint8_t, 16> bytes_{};  // of IPv4 the first four
};

// Networks such as 10.0.0.0/8 or 2001:db8::/32; an address alone is a network of one.
class NetworkList {
 public:
  // INVALID_ARGUMENT names what is malformed.
  static absl::StatusOr<NetworkList> Parse(const std::vector<std::string>& networks);
  bool Contains(const IpAddress& address) const;
  bool empty() const { return networks_.empty(); }

 private:
  struct Network {
    IpAddress address;
    int bits = 0;
  };
  std::vector<Network> networks_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_NET_IP_ADDRESS_H_
