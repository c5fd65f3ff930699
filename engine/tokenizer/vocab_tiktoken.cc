#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/merge_table.h"
#include "engine/tokenizer/vocab.h"

namespace qwenserve {
namespace {

// Qwen1's control tokens stand behind the ranks of the file, in this order.
constexpr int kNumExtraTokens = 205;

using IdsByBytes = absl::flat_hash_map<absl::string_view, int32_t>;

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
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const absl::string_view text(reinterpret_cast<const char*>(file->bytes().data()),
                               file->bytes().size());
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
// join, with that token's rank.
std::vector<Vocab::Merge> AllMerges(const IdsByBytes& ids) {
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
  return merges;
}

// One merge per token is enough. Until a token is there, no merge reaches across its ends, so
// what happens inside does not depend on the text around: the last step is always the same one.
// The full list is three times as long, and look-ups in it are what encoding waits for.
std::vector<Vocab::Merge> LastMerges(const Vocab& vocab, const std::vector<Vocab::Merge>& all) {
  const MergeTable table(all);
  std::vector<int32_t> byte_ids(256, -1);
  std::vector<Vocab::Merge> merges;
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    if (vocab.kinds[id] == Vocab::Kind::kRegular && vocab.tokens[id].size() == 1) {
      byte_ids[static_cast<unsigned char>(vocab.tokens[id][0])] = static_cast<int32_t>(id);
    }
  }
  std::vector<int32_t> parts(kMaxTokenBytes);
  std::vector<MergeTable::Result> scratch(kMaxTokenBytes);
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    const std::string& token = vocab.tokens[id];
    if (vocab.kinds[id] != Vocab::Kind::kRegular || token.size() < 2) continue;
    for (size_t i = 0; i < token.size(); ++i) {
      parts[i] = byte_ids[static_cast<unsigned char>(token[i])];
    }
    if (table.MergeAll(parts.data(), token.size(), 2, scratch.data()) != 2) continue;
    const MergeTable::Result last = table.Find(parts[0], parts[1]);
    if (last.id == static_cast<int32_t>(id)) {
      merges.push_back({parts[0], parts[1], last.id, last.rank});
    }
  }
  return merges;
}

}  // namespace

absl::StatusOr<Vocab> ReadTiktokenVocab(const std::string& path, const std::string& extra_path) {
  Vocab vocab;
  vocab.whole_pieces_first = true;
  QS_RETURN_IF_ERROR(ReadLines(path, &vocab));
  QS_RETURN_IF_ERROR(AddControlTokens(&vocab));
  if (!extra_path.empty()) QS_RETURN_IF_ERROR(ReadLines(extra_path, &vocab));
  IdsByBytes ids;
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
  vocab.merges = LastMerges(vocab, AllMerges(ids));
  return vocab;
}

}  // namespace qwenserve
