#include "services/common/net/ip_address.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

IpAddress IpAddress::FromBytes(const uint8_t* bytes, size_t count) {
  IpAddress address;
  const bool mapped = count == 16 && std::equal(kMapped, kMapped + 12, bytes);
  address.v4_ = count == 4 || mapped;
  std::copy(mapped ? bytes + 12 : bytes, bytes + count, address.bytes_.begin());
  return address;
}

std::optional<IpAddress> IpAddress::Parse(absl::string_view text) {
  const std::string owned(text);
  uint8_t bytes[16];
  // A NUL would end the text for inet_pton.
  if (owned.find('\0') != std::string::npos) return std::nullopt;
  if (inet_pton(AF_INET, owned.c_str(), bytes) == 1) return FromBytes(bytes, 4);
  if (inet_pton(AF_INET6, owned.c_str(), bytes) == 1) return FromBytes(bytes, 16);
  return std::nullopt;
}

std::optional<IpAddress> IpAddress::FromSocket(const sockaddr_storage& address) {
  uint8_t bytes[16];
  if (address.ss_family == AF_INET) {
    std::memcpy(bytes, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, 4);
    return FromBytes(bytes, 4);
  }
  if (address.ss_family == AF_INET6) {
    std::memcpy(bytes, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, 16);
    return FromBytes(bytes, 16);
  }
  return std::nullopt;
}

std::string IpAddress::ToString() const {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(v4_ ? AF_INET : AF_INET6, bytes_.data(), text, sizeof(text));
  return text;
}

bool IpAddress::SharesPrefix(const IpAddress& other, int bits) const {
  if (v4_ != other.v4_) return false;
  const auto whole = static_cast<size_t>(bits / 8);
  if (!std::equal(bytes_.begin(), bytes_.begin() + whole, other.bytes_.begin())) return false;
  if (bits % 8 == 0) return true;
  const int mask = 0xff << (8 - bits % 8);
  return ((bytes_[whole] ^ other.bytes_[whole]) & mask & 0xff) == 0;
}

absl::StatusOr<NetworkList> NetworkList::Parse(const std::vector<std::string>& networks) {
  NetworkList list;
  for (const std::string& text : networks) {
    const size_t slash = text.find('/');
    const std::optional<IpAddress> address = IpAddress::Parse(text.substr(0, slash));
    const int most = address.has_value() && address->v4() ? 32 : 128;
    int bits = most;
    if (!address.has_value() ||
        (slash != std::string::npos && !absl::SimpleAtoi(text.substr(slash + 1), &bits)) ||
        bits < 0 || bits > most) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", text, "\" is neither an IP address nor a network such as 10.0.0.0/8"));
    }
    list.networks_.push_back({*address, bits});
  }
  return list;
}

bool NetworkList::Contains(const IpAddress& address) const {
  return std::any_of(networks_.begin(), networks_.end(), [&](const Network& network) {
    return network.address.SharesPrefix(address, network.bits);
  });
}

}  // namespace qwenserve
