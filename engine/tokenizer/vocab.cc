#include "engine/tokenizer/vocab.h"

#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/sha256.h"

namespace qwenserve {
namespace {

void AddNumber(uint64_t value, Sha256* sha) {
  std::array<char, 8> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(value >> 8 * i);
  sha->Update(bytes.data(), bytes.size());
}

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
  AddNumber(whole_pieces_first ? 1 : 0, &sha);
  AddNumber(tokens.size(), &sha);
  for (size_t id = 0; id < tokens.size(); ++id) {
    AddNumber(static_cast<uint64_t>(kinds[id]), &sha);
    AddNumber(tokens[id].size(), &sha);
    sha.Update(tokens[id]);
  }
  AddNumber(merges.size(), &sha);
  for (const Merge& merge : merges) {
    AddNumber(static_cast<uint64_t>(merge.left) << 32 | static_cast<uint64_t>(merge.right), &sha);
    AddNumber(static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint64_t>(merge.result), &sha);
  }
  return sha.HexDigest();
}

}  // namespace qwenserve
