#include "engine/base/sha256.h"

#include <string>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

// Vectors of FIPS 180-4.
TEST(Sha256, KnownVectors) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, PiecesGiveTheHashOfTheWhole) {
  const std::string text(1000, 'x');
  Sha256 hash;
  hash.Update(absl::string_view(text).substr(0, 63));
  hash.Update(absl::string_view(text).substr(63));
  EXPECT_EQ(hash.HexDigest(), Sha256Hex(text));
}

}  // namespace
}  // namespace qwenserve
