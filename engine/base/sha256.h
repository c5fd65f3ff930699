#ifndef QWENSERVE_ENGINE_BASE_SHA256_H_
#define QWENSERVE_ENGINE_BASE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// SHA-256 in pieces: identifies files and configurations (numerics fingerprint, tokenizer hash).
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(const void* data, size_t bytes);
  void Update(absl::string_view bytes) { Update(bytes.data(), bytes.size()); }

  // To be called once, last.
  std::array<uint8_t, 32> Digest();
  std::string HexDigest();  // 64 lower-case hex digits of it

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string Sha256Hex(absl::string_view bytes);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_BASE_SHA256_H_
