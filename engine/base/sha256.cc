#include "engine/base/sha256.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// EVP_sha256() would be looked up among the providers for every digest: half the cost of a short
// one.
const EVP_MD* Algorithm() {
  static const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  QS_CHECK(algorithm != nullptr);
  return algorithm;
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = nullptr;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  state_->context = EVP_MD_CTX_new();
  QS_CHECK(state_->context != nullptr);
  QS_CHECK(EVP_DigestInit_ex(state_->context, Algorithm(), nullptr) == 1);
}

Sha256::~Sha256() { EVP_MD_CTX_free(state_->context); }

void Sha256::Update(const void* data, size_t bytes) {
  QS_CHECK(EVP_DigestUpdate(state_->context, data, bytes) == 1);
}

std::array<uint8_t, 32> Sha256::Digest() {
  std::array<uint8_t, 32> digest;
  unsigned int bytes = 0;
  QS_CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), &bytes) == 1);
  QS_CHECK(bytes == digest.size());
  return digest;
}

std::string Sha256::HexDigest() {
  const std::array<uint8_t, 32> digest = Digest();
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

std::string Sha256Hex(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.HexDigest();
}

}  // namespace qwenserve
