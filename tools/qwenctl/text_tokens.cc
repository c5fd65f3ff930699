#include "tools/qwenctl/text_tokens.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr size_t kLongestName = 64;

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeWithControlTokens(absl::string_view text,
                                                             const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  const auto append = [&](absl::string_view part) -> absl::Status {
    if (part.empty()) return absl::OkStatus();
    QS_ASSIGN_OR_RETURN(const std::vector<int32_t> more, tokenizer.Encode(part));
    ids.insert(ids.end(), more.begin(), more.end());
    return absl::OkStatus();
  };
  size_t done = 0;
  for (size_t open = text.find('<'); open != absl::string_view::npos; open = text.find('<', open)) {
    const size_t close = text.substr(open, kLongestName).find('>');
    const std::optional<int32_t> id = close == absl::string_view::npos
                                          ? std::nullopt
                                          : tokenizer.SpecialTokenId(text.substr(open, close + 1));
    if (!id.has_value()) {
      ++open;
      continue;
    }
    QS_RETURN_IF_ERROR(append(text.substr(done, open - done)));
    ids.push_back(*id);
    open += close + 1;
    done = open;
  }
  QS_RETURN_IF_ERROR(append(text.substr(done)));
  return ids;
}

absl::StatusOr<TextTokens> ReadTextTokens(const std::string& path, const Tokenizer& tokenizer) {
  QS_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  TextTokens text;
  text.bytes = file->size();
  const absl::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()),
                                static_cast<size_t>(file->size()));
  absl::StatusOr<std::vector<int32_t>> ids = EncodeWithControlTokens(bytes, tokenizer);
  if (!ids.ok()) {
    return absl::Status(ids.status().code(), absl::StrCat(path, ": ", ids.status().message()));
  }
  text.ids = *std::move(ids);
  if (text.ids.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no text in it"));
  return text;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> SpreadPieces(const std::vector<int32_t>& ids,
                                                               int64_t length, int64_t count) {
  const int64_t available = static_cast<int64_t>(ids.size()) / length;
  if (available == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", ids.size(), " tokens, fewer than one piece of ", length));
  }
  const int64_t taken = std::min(available, count);
  std::vector<std::vector<int32_t>> pieces;
  for (int64_t i = 0; i < taken; ++i) {
    const auto begin = ids.begin() + i * available / taken * length;
    pieces.emplace_back(begin, begin + length);
  }
  return pieces;
}

}  // namespace qwenserve
