#include "engine/tokenizer/vocab.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }

  void Number(uint64_t value) {
    std::array<unsigned char, 8> bytes;
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(value >> 8 * i);
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }

  void Bytes(absl::string_view bytes) {
    Number(bytes.size());
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }

  std::string Hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest.data(), &size);
    return absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(digest.data()), size));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

absl::Status Vocab::Add(int64_t id, absl::string_view bytes, Kind kind) {
  if (id < 0 || id > kMaxTokenId) {
    return absl::InvalidArgumentError(absl::StrCat("id ", id, " is outside 0..", kMaxTokenId));
  }
  if (bytes.empty()) return absl::InvalidArgumentError(absl::StrCat("id ", id, ": empty token"));
  if (bytes.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(absl::StrCat("id ", id, ": a token of ", bytes.size(),
                                                   " bytes, more than ", kMaxTokenBytes));
  }
  const auto index = static_cast<size_t>(id);
  if (index >= tokens.size()) {
    tokens.resize(index + 1);
    kinds.resize(index + 1, Kind::kNone);
  }
  if (kinds[index] != Kind::kNone && tokens[index] != bytes) {
    return absl::InvalidArgumentError(absl::StrCat("id ", id, " is given to both \"",
                                                   absl::CHexEscape(tokens[index]), "\" and \"",
                                                   absl::CHexEscape(bytes), "\""));
  }
  tokens[index] = std::string(bytes);
  kinds[index] = kind;
  if (kind != Kind::kRegular && !added.emplace(bytes, static_cast<int32_t>(id)).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("added token \"", absl::CHexEscape(bytes), "\" twice"));
  }
  return absl::OkStatus();
}

std::string Vocab::Hash() const {
  Sha256 sha;
  sha.Number(whole_pieces_first ? 1 : 0);
  sha.Number(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    sha.Number(static_cast<uint64_t>(kinds[id]));
    sha.Bytes(tokens[id]);
  }
  sha.Number(merges.size());
  for (const Merge& merge : merges) {
    sha.Number(static_cast<uint64_t>(merge.left) << 32 | static_cast<uint64_t>(merge.right));
    sha.Number(static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint64_t>(merge.result));
  }
  return sha.Hex();
}

}  // namespace qwenserve
