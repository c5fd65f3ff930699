#include "services/gateway/http/host_policy.h"

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

HostPolicy::Options OnLoopback() {
  HostPolicy::Options options;
  options.listen = "127.0.0.1:8080";
  options.loopback = true;
  return options;
}

HostPolicy::Options Elsewhere() {
  HostPolicy::Options options;
  options.listen = "10.1.2.3:8080";
  return options;
}

// 0: it may pass.
int Verdict(const HostPolicy::Options& options, const char* host, const char* origin = nullptr) {
  const auto policy = HostPolicy::Make(options);
  EXPECT_TRUE(policy.ok()) << policy.status();
  HttpRequest request;
  request.head.set("Host", host);
  if (origin != nullptr) request.head.set("Origin", origin);
  const std::optional<HttpResponse> refused = policy->Check(request);
  return refused.has_value() ? refused->status : 0;
}

TEST(HostPolicyTest, OnLoopbackOnlyItsNamesAreTaken) {
  for (const char* host :
       {"localhost", "localhost:8080", "LocalHost:9999", "localhost.:8080", "chat.localhost:8080",
        "127.0.0.1", "127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080", "[::1]", ""}) {
    EXPECT_EQ(Verdict(OnLoopback(), host), 0) << host;
  }
  for (const char* host :
       {"evil.example", "evil.example:8080", "localhost.evil.example", "evillocalhost", "x",
        "127.0.0.1.evil.example:8080", "10.1.2.3:8080", "[::2]:8080", "[fe80::1]", "0.0.0.0:8080",
        "[", ":8080", "127.0.0.1@evil.example", "2130706433"}) {
    EXPECT_EQ(Verdict(OnLoopback(), host), 421) << host;
  }
}

TEST(HostPolicyTest, HostsThatAreAllowedAreTakenToo) {
  HostPolicy::Options options = OnLoopback();
  options.allowed_hosts = {"chat.example", ".inner.example", "2001:db8::1"};
  for (const char* host : {"chat.example", "CHAT.example:443", "chat.example.", "a.inner.example",
                           "[2001:DB8:0::1]:8080", "localhost:8080"}) {
    EXPECT_EQ(Verdict(options, host), 0) << host;
  }
  for (const char* host : {"inner.example", "xinner.example", "a.chat.example", "evil.example"}) {
    EXPECT_EQ(Verdict(options, host), 421) << host;
  }
  options.allowed_hosts = {"*"};
  EXPECT_EQ(Verdict(options, "evil.example", "http://other.example"), 0);
}

TEST(HostPolicyTest, ElsewhereAnyHostIsTakenUnlessSomeAreListed) {
  EXPECT_EQ(Verdict(Elsewhere(), "gateway.namespace.svc:8080"), 0);
  EXPECT_EQ(Verdict(Elsewhere(), "10.1.2.3:8080"), 0);
  HostPolicy::Options listed = Elsewhere();
  listed.allowed_hosts = {"gateway"};
  EXPECT_EQ(Verdict(listed, "gateway:8080"), 0);
  EXPECT_EQ(Verdict(listed, "10.1.2.3:8080"), 0);  // where it listens
  EXPECT_EQ(Verdict(listed, "10.1.2.4:8080"), 421);
}

TEST(HostPolicyTest, OriginsAreTheHostsOwnOrAllowed) {
  for (HostPolicy::Options options : {OnLoopback(), Elsewhere()}) {
    EXPECT_EQ(Verdict(options, "127.0.0.1:8080", "http://127.0.0.1:8080"), 0);
    EXPECT_EQ(Verdict(options, "127.0.0.1:8080", "https://127.0.0.1:8080"), 0);
    for (const char* origin : {"http://evil.example", "http://127.0.0.1:3000", "null", "",
                               "127.0.0.1:8080", "http://127.0.0.1:8080.evil.example"}) {
      EXPECT_EQ(Verdict(options, "127.0.0.1:8080", origin), *origin == 0 ? 0 : 403) << origin;
    }
    options.allowed_origins = {"https://app.example"};
    EXPECT_EQ(Verdict(options, "127.0.0.1:8080", "https://app.example"), 0);
    EXPECT_EQ(Verdict(options, "127.0.0.1:8080", "http://app.example"), 403);
    options.allowed_origins = {"*"};
    EXPECT_EQ(Verdict(options, "127.0.0.1:8080", "null"), 0);
  }
  // No page of others is under a name of ours by an origin that may call.
  HostPolicy::Options options = OnLoopback();
  options.allowed_origins = {"*"};
  EXPECT_EQ(Verdict(options, "evil.example", "http://evil.example"), 421);
}

TEST(HostPolicyTest, KeysAreEnoughUnlessHostsAreListed) {
  HostPolicy::Options options = OnLoopback();
  options.keys = true;
  EXPECT_EQ(Verdict(options, "any.example", "http://other.example"), 0);
  options.allowed_hosts = {"chat.example"};
  EXPECT_EQ(Verdict(options, "any.example"), 421);
  EXPECT_EQ(Verdict(options, "chat.example", "http://other.example"), 403);
  EXPECT_EQ(Verdict(options, "chat.example", "https://chat.example"), 0);
}

TEST(HostPolicyTest, RefusesWhatIsNoHost) {
  for (const char* host : {"", "chat.example:8080", "http://chat.example", "a b", "[::1]", "."}) {
    HostPolicy::Options options;
    options.allowed_hosts = {host};
    EXPECT_EQ(HostPolicy::Make(options).status().code(), absl::StatusCode::kInvalidArgument)
        << host;
  }
  HostPolicy::Options options;
  options.allowed_hosts = {"*", "chat.example"};
  EXPECT_FALSE(HostPolicy::Make(options).ok()) << "which of them is meant?";
}

}  // namespace
}  // namespace qwenserve
