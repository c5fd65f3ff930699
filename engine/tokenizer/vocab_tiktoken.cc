#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/vocab.h"

namespace qwenserve {
namespace {

// Qwen1's control tokens stand behind the ranks of the file, in this order.
constexpr int kNumExtraTokens = 205;

using TokenIds = absl::flat_hash_map<absl::string_view, int32_t>;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": cannot be read"));
  return text;
}

absl::Status ReadLine(absl::string_view line, int64_t next_rank, Vocab* vocab) {
  const std::pair<absl::string_view, absl::string_view> fields =
      absl::StrSplit(line, absl::MaxSplits(' ', 1));
  std::string bytes;
  if (!absl::Base64Unescape(fields.first, &bytes) || bytes.empty()) {
    return absl::InvalidArgumentError("the first field is not a token in base64");
  }
  int64_t rank = 0;
  if (!absl::SimpleAtoi(fields.second, &rank)) {
    return absl::InvalidArgumentError("the second field is not a rank");
  }
  if (rank != next_rank) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " where ", next_rank, " is due"));
  }
  return vocab->Add(rank, bytes, Vocab::Kind::kRegular);
}

absl::Status ReadLines(const std::string& path, Vocab* vocab) {
  QS_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    absl::ConsumeSuffix(&line, "\r");
    if (line.empty()) continue;
    const absl::Status status = ReadLine(line, static_cast<int64_t>(vocab->tokens.size()), vocab);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(path, ": line ", line_number, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status AddControlTokens(Vocab* vocab) {
  std::vector<std::string> names = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (int i = 0; i < kNumExtraTokens; ++i) names.push_back(absl::StrCat("<|extra_", i, "|>"));
  for (const std::string& name : names) {
    QS_RETURN_IF_ERROR(
        vocab->Add(static_cast<int64_t>(vocab->tokens.size()), name, Vocab::Kind::kControl));
  }
  return absl::OkStatus();
}

// The format ranks tokens, not merges: any two neighbours whose bytes together are a token may
// join, with that token's rank. Every split of every token into two tokens is such a pair, so the
// pairs can be listed and the encoder needs no look-up by bytes.
std::vector<Vocab::Merge> ListMerges(const std::vector<std::string>& tokens, const TokenIds& ids) {
  std::vector<Vocab::Merge> merges;
  for (const auto& [bytes, id] : ids) {
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const auto left = ids.find(bytes.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(bytes.substr(cut));
      if (right == ids.end()) continue;
      merges.push_back({left->second, right->second, id, static_cast<uint32_t>(id)});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const Vocab::Merge& a, const Vocab::Merge& b) {
    return std::tie(a.rank, a.left) < std::tie(b.rank, b.left);
  });
  return merges;
}

}  // namespace

absl::StatusOr<Vocab> ReadTiktokenVocab(const std::string& path, const std::string& extra_path) {
  Vocab vocab;
  vocab.whole_pieces_first = true;
  QS_RETURN_IF_ERROR(ReadLines(path, &vocab));
  QS_RETURN_IF_ERROR(AddControlTokens(&vocab));
  if (!extra_path.empty()) QS_RETURN_IF_ERROR(ReadLines(extra_path, &vocab));
  TokenIds ids;
  ids.reserve(vocab.tokens.size());
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    if (vocab.kinds[id] != Vocab::Kind::kRegular) continue;
    const auto [it, inserted] = ids.emplace(vocab.tokens[id], static_cast<int32_t>(id));
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ranks ", it->second, " and ", id,
                                                     " are the same token \"",
                                                     absl::CHexEscape(vocab.tokens[id]), "\""));
    }
  }
  vocab.merges = ListMerges(vocab.tokens, ids);
  return vocab;
}

}  // namespace qwenserve
