#include "services/common/net/proxy_header.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace qwenserve {
namespace {

using State = ProxyHeader::State;

constexpr absl::string_view kPrefix1 = "PROXY ";
constexpr size_t kMaxLine = 107;  // with its end
constexpr absl::string_view kSignature2("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr size_t kFixed2 = 16;

ProxyHeader Malformed() { return {State::kMalformed, 0, std::nullopt}; }

bool IsPort(absl::string_view text) {
  uint32_t port = 0;
  const bool digits =
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  return digits && text.size() <= 5 && absl::SimpleAtoi(text, &port) && port <= 65535;
}

ProxyHeader ParseLine(absl::string_view start) {
  const size_t end = start.substr(0, kMaxLine).find("\r\n");
  if (end == absl::string_view::npos) {
    return start.size() >= kMaxLine ? Malformed() : ProxyHeader();
  }
  const std::vector<absl::string_view> words = absl::StrSplit(start.substr(0, end), ' ');
  const ProxyHeader itself{State::kComplete, end + 2, std::nullopt};
  if (words[1] == "UNKNOWN") return itself;
  const bool v4 = words[1] == "TCP4";
  if (words.size() != 6 || (!v4 && words[1] != "TCP6") || !IsPort(words[4]) || !IsPort(words[5])) {
    return Malformed();
  }
  // IPv4 within IPv6 may stand in a line of TCP6.
  for (const absl::string_view address : {words[2], words[3]}) {
    if (absl::StrContains(address, ':') == v4) return Malformed();
  }
  const std::optional<IpAddress> client = IpAddress::Parse(words[2]);
  if (!client.has_value() || !IpAddress::Parse(words[3]).has_value()) return Malformed();
  return {State::kComplete, end + 2, client};
}

ProxyHeader ParseBinary(absl::string_view start) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(start.data());
  // Version 2; command LOCAL or PROXY.
  if (start.size() > 12 && bytes[12] != 0x20 && bytes[12] != 0x21) return Malformed();
  if (start.size() < kFixed2) return {};
  const size_t length = (size_t{bytes[14]} << 8) | bytes[15];
  if (kFixed2 + length > kMaxProxyHeaderBytes) return Malformed();
  const uint8_t family = bytes[13];
  const size_t address_bytes = family == 0x11 ? 4 : family == 0x21 ? 16 : 0;
  const bool local = bytes[12] == 0x20 || family == 0x00;
  // Two addresses and two ports; what follows them are extensions.
  if (!local && (address_bytes == 0 || length < 2 * address_bytes + 4)) return Malformed();
  if (start.size() < kFixed2 + length) return {};
  ProxyHeader header{State::kComplete, kFixed2 + length, std::nullopt};
  if (!local) header.client = IpAddress::FromBytes(bytes + kFixed2, address_bytes);
  return header;
}

}  // namespace

ProxyHeader ParseProxyHeader(absl::string_view start) {
  if (absl::StartsWith(start, kPrefix1)) return ParseLine(start);
  if (absl::StartsWith(start, kSignature2)) return ParseBinary(start);
  // Too little of either yet, or neither.
  if (absl::StartsWith(kPrefix1, start) || absl::StartsWith(kSignature2, start)) return {};
  return Malformed();
}

}  // namespace qwenserve
