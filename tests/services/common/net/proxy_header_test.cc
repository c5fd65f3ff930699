#include "services/common/net/proxy_header.h"

#include <string>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using State = ProxyHeader::State;

std::string Binary(char command, char family, const std::string& rest) {
  std::string header("\r\n\r\n\0\r\nQUIT\n", 12);
  header += command;
  header += family;
  header += static_cast<char>(rest.size() >> 8);
  header += static_cast<char>(rest.size());
  return header + rest;
}

const std::string kV4Body("\x0a\x01\x02\x03\xc0\xa8\x00\x01\x12\x34\x01\xbb", 12);

TEST(ProxyHeaderTest, IsWholeOnlyAtItsEnd) {
  const std::string v6 = std::string("\x20\x01\x0d\xb8", 4) + std::string(11, '\0') + "\x07" +
                         std::string(16, '\1') + "abcd";
  const std::string mapped =
      std::string(10, '\0') + "\xff\xff\x0a\x01\x02\x03" + std::string(16, '\1') + "abcd";
  const std::pair<std::string, std::string> cases[] = {
      {"PROXY TCP4 10.1.2.3 192.168.0.1 56324 443\r\n", "10.1.2.3"},
      {"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", "2001:db8::7"},
      {"PROXY TCP6 ::ffff:10.1.2.3 ::1 1 2\r\n", "10.1.2.3"},
      {"PROXY UNKNOWN\r\n", ""},
      {"PROXY UNKNOWN ffff:f::1 what ever 9 9\r\n", ""},
      {Binary('\x21', '\x11', kV4Body), "10.1.2.3"},
      {Binary('\x21', '\x11', kV4Body + std::string(500, 'x')), "10.1.2.3"},  // with extensions
      {Binary('\x21', '\x21', v6), "2001:db8::7"},
      {Binary('\x21', '\x21', mapped), "10.1.2.3"},
      {Binary('\x20', '\x00', ""), ""},       // LOCAL
      {Binary('\x20', '\x11', kV4Body), ""},  // LOCAL, whatever it says
      {Binary('\x21', '\x00', "xy"), ""},     // no family
  };
  for (const auto& [header, client] : cases) {
    for (size_t bytes = 0; bytes < header.size(); ++bytes) {
      EXPECT_EQ(ParseProxyHeader(header.substr(0, bytes)).state, State::kIncomplete)
          << header << " cut at " << bytes;
    }
    for (const std::string after : {"", "\r\n", "PRI * HTTP/2.0\r\n"}) {
      const ProxyHeader parsed = ParseProxyHeader(header + after);
      ASSERT_EQ(parsed.state, State::kComplete) << header;
      EXPECT_EQ(parsed.bytes, header.size());
      EXPECT_EQ(parsed.client.has_value() ? parsed.client->ToString() : "", client);
    }
  }
}

TEST(ProxyHeaderTest, RefusesWhatIsMalformedAtWhateverCut) {
  const std::string cases[] = {
      "GET / HTTP/1.1\r\n",
      "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n",
      "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
      "PROXY TCP4 ::1 ::1 1 2\r\n",
      "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
      "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
      std::string("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n", 33),
      "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
      "PROXY \r\n",
      "PROXY UNKNOWN " + std::string(107, 'x'),  // a line without an end
      "PROXY UNKNOWN " + std::string(107, 'x') + "\r\n",
      Binary('\x22', '\x11', kV4Body),                          // unknown command
      Binary('\x11', '\x11', kV4Body),                          // unknown version
      Binary('\x21', '\x31', std::string(216, 'x')),            // a Unix socket
      Binary('\x21', '\x12', kV4Body),                          // UDP
      Binary('\x21', '\x11', kV4Body.substr(0, 11)),            // too short
      Binary('\x21', '\x21', kV4Body),                          // IPv6 in 12 bytes
      Binary('\x21', '\x11', kV4Body + std::string(509, 'x')),  // longer than we read
      std::string("\r\n\r\n\0\r\nQUIT\r", 12),
  };
  for (const std::string& header : cases) {
    EXPECT_EQ(ParseProxyHeader(header).state, State::kMalformed) << header;
    bool malformed = false;
    for (size_t bytes = 0; bytes <= header.size(); ++bytes) {
      const State state = ParseProxyHeader(header.substr(0, bytes)).state;
      // More bytes never mend it, and on the way it is never good.
      EXPECT_NE(state, State::kComplete) << header << " cut at " << bytes;
      EXPECT_FALSE(malformed && state != State::kMalformed) << header << " cut at " << bytes;
      malformed = state == State::kMalformed;
    }
  }
}

TEST(NetworkListTest, TakesNetworksOfBothFamilies) {
  const auto list = NetworkList::Parse({"10.0.0.0/8", "192.168.1.7", "2001:db8::/33", "::1"});
  ASSERT_TRUE(list.ok()) << list.status();
  auto contains = [&](const char* text) { return list->Contains(*IpAddress::Parse(text)); };
  for (const char* in :
       {"10.255.0.1", "::ffff:10.2.3.4", "192.168.1.7", "2001:db8:7fff::", "::1"}) {
    EXPECT_TRUE(contains(in)) << in;
  }
  for (const char* out : {"11.0.0.0", "192.168.1.6", "2001:db8:8000::", "::2", "a00::"}) {
    EXPECT_FALSE(contains(out)) << out;
  }
  EXPECT_TRUE(NetworkList::Parse({"0.0.0.0/0"})->Contains(*IpAddress::Parse("9.9.9.9")));
  EXPECT_FALSE(NetworkList::Parse({"0.0.0.0/0"})->Contains(*IpAddress::Parse("::1")));
  for (const char* bad :
       {"", "10", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "::/129", "host", "[::1]"}) {
    EXPECT_FALSE(NetworkList::Parse({bad}).ok()) << bad;
  }
}

}  // namespace
}  // namespace qwenserve
