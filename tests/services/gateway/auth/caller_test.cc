#include "services/gateway/auth/caller.h"

#include <fstream>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "services/common/digest.h"
#include "services/gateway/auth/cache_salt.h"
#include "services/gateway/grpc/grpc_caller.h"

namespace qwenserve {
namespace {

TEST(TraceContextTest, TakesWhatIsWellFormed) {
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_EQ(CheckedTraceparent(good), good);
  // A later version may be longer; what we know of it is the beginning.
  const std::string later = "cc" + good.substr(2);
  EXPECT_EQ(CheckedTraceparent(later), later);
  EXPECT_EQ(CheckedTraceparent(later + "-what-comes"), later);
}

TEST(TraceContextTest, DropsAnythingElse) {
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_EQ(CheckedTraceparent(""), "");
  EXPECT_EQ(CheckedTraceparent(good + "-more"), "");
  EXPECT_EQ(CheckedTraceparent("cc" + good.substr(2) + "more"), "");
  EXPECT_EQ(CheckedTraceparent(good.substr(0, 54)), "");
  EXPECT_EQ(CheckedTraceparent("ff" + good.substr(2)), "");
  EXPECT_EQ(CheckedTraceparent("00-00000000000000000000000000000000-b7ad6b7169203331-01"), "");
  EXPECT_EQ(CheckedTraceparent("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"), "");
  for (size_t i = 0; i < good.size(); ++i) {
    for (char c : {'G', 'A', '\n', '"', '_'}) {
      std::string bad = good;
      bad[i] = c;
      EXPECT_EQ(CheckedTraceparent(bad), "") << bad;
    }
  }
}

TEST(GrpcCallerTest, FindsTheAddressOfAPeer) {
  EXPECT_EQ(AddressOfPeer("ipv4:10.0.0.1:4711"), "10.0.0.1");
  EXPECT_EQ(AddressOfPeer("ipv6:%5B2001:db8::1%5D:4711"), "2001:db8::1");
  EXPECT_EQ(AddressOfPeer("ipv6:[::1]:4711"), "::1");
  EXPECT_EQ(AddressOfPeer("unix:/tmp/socket"), "unix:/tmp/socket");
}

TEST(CacheSaltTest, DiffersByTenantSaltAndSecret) {
  const CacheSalt one("secret-of-the-cluster"), two("another-secret-of-it");
  const std::set<std::string> salts = {one.Make("a", ""),  one.Make("b", ""),  one.Make("a", "b"),
                                       one.Make("ab", ""), one.Make("", "ab"), one.Make("", ""),
                                       two.Make("a", "")};
  EXPECT_EQ(salts.size(), 7u);
  EXPECT_EQ(one.Make("a", "b"), CacheSalt("secret-of-the-cluster").Make("a", "b"));
  // RFC 2104 over "1:ab", so that other programs can compute it.
  EXPECT_EQ(one.Make("a", "b"), ToHex(HmacSha256("secret-of-the-cluster", "1:ab")));
}

TEST(CacheSaltTest, TheSecretComesFromAFileWithoutItsLineEnd) {
  const std::string path = testing::TempDir() + "/secret";
  std::ofstream(path) << "secret-of-the-cluster\n";
  const auto salt = CacheSalt::FromFile(path);
  ASSERT_TRUE(salt.ok()) << salt.status();
  EXPECT_EQ(salt->Make("a", ""), CacheSalt("secret-of-the-cluster").Make("a", ""));
  std::ofstream(path) << "too short\n";
  EXPECT_FALSE(CacheSalt::FromFile(path).ok());
  EXPECT_FALSE(CacheSalt::FromFile("/nowhere").ok());
}

// RFC 4231, test case 2, and FIPS 180-4's "abc".
TEST(DigestTest, IsTheStandards) {
  EXPECT_EQ(ToHex(HmacSha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(ToHex(Sha256("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(FromHex("00fFaB"), std::string("\0\xff\xab", 3));
}

}  // namespace
}  // namespace qwenserve
