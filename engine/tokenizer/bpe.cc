#include "engine/tokenizer/bpe.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// Up to here a scan for the lowest rank is cheaper than a queue.
constexpr size_t kShortPiece = 64;

constexpr size_t kLongestToken = 256;  // longer ones are found by merging

}  // namespace

absl::StatusOr<std::unique_ptr<Bpe>> Bpe::Create(const Vocab& vocab) {
  for (const Vocab::Merge& merge : vocab.merges) {
    if (vocab.kinds[static_cast<size_t>(merge.result)] != Vocab::Kind::kRegular) {
      return absl::InvalidArgumentError(
          absl::StrCat("a merge yields the added token ", merge.result));
    }
  }
  std::unique_ptr<Bpe> bpe(new Bpe(vocab));
  for (size_t byte = 0; byte < bpe->byte_ids_.size(); ++byte) {
    if (bpe->byte_ids_[byte] < 0) {
      return absl::InvalidArgumentError(absl::StrCat("no token for byte ", byte));
    }
  }
  std::vector<int32_t> ids;
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    if (vocab.kinds[id] != Vocab::Kind::kRegular || vocab.tokens[id].size() > kLongestToken) {
      continue;
    }
    // A token that merging its own bytes does not give is never used: it must not be found whole.
    if (!vocab.whole_pieces_first) {
      ids.clear();
      bpe->Merge(vocab.tokens[id], &ids, nullptr);
      if (ids.size() != 1 || ids[0] != static_cast<int32_t>(id)) continue;
    }
    bpe->pieces_.Insert(static_cast<int32_t>(id));
  }
  return bpe;
}

Bpe::Bpe(const Vocab& vocab) : merges_(vocab.merges), pieces_(vocab.tokens, vocab.tokens.size()) {
  byte_ids_.fill(-1);
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    if (vocab.kinds[id] != Vocab::Kind::kRegular || vocab.tokens[id].size() != 1) continue;
    byte_ids_[static_cast<unsigned char>(vocab.tokens[id][0])] = static_cast<int32_t>(id);
  }
}

void Bpe::Encode(absl::string_view piece, std::vector<int32_t>* ids, Work* work) const {
  if (piece.size() <= kLongestToken) {
    if (const int32_t id = pieces_.Find(piece); id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  Merge(piece, ids, work);
}

void Bpe::Merge(absl::string_view piece, std::vector<int32_t>* ids, Work* work) const {
  if (piece.size() <= kShortPiece) {
    MergeShort(piece, ids);
  } else {
    MergeLong(piece, ids, work);
  }
}

void Bpe::MergeShort(absl::string_view piece, std::vector<int32_t>* ids) const {
  std::array<int32_t, kShortPiece> tokens;
  std::array<MergeTable::Result, kShortPiece> scratch;
  for (size_t i = 0; i < piece.size(); ++i) {
    tokens[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
  }
  const size_t count = merges_.MergeAll(tokens.data(), piece.size(), 1, scratch.data());
  ids->insert(ids->end(), tokens.begin(), tokens.begin() + count);
}

void Bpe::MergeLong(absl::string_view piece, std::vector<int32_t>* ids, Work* work) const {
  // A doubly linked list of tokens by the position of their first byte.
  struct Node {
    int32_t token;
    int32_t next;              // position of the next token, or the size
    int32_t previous;          // or -1
    MergeTable::Result merge;  // with the next token; kNoMerge for a node that is gone
  };
  const auto size = static_cast<int32_t>(piece.size());
  std::vector<Node> nodes(piece.size());
  for (int32_t i = 0; i < size; ++i) {
    nodes[i] = {
        byte_ids_[static_cast<unsigned char>(piece[i])], i + 1, i - 1, {MergeTable::kNoMerge, -1}};
  }
  // Rank and position in one number; entries whose pair has changed since are skipped.
  std::vector<uint64_t> entries;
  const auto entry = [](uint32_t rank, int32_t position) {
    return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(position);
  };
  for (int32_t i = 0; i + 1 < size; ++i) {
    nodes[i].merge = merges_.Find(nodes[i].token, nodes[i + 1].token);
    if (nodes[i].merge.rank != MergeTable::kNoMerge) {
      entries.push_back(entry(nodes[i].merge.rank, i));
    }
  }
  Work counted{0, static_cast<int64_t>(entries.size())};
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(std::greater<>(),
                                                                             std::move(entries));
  const auto update = [&](int32_t position) {
    Node& node = nodes[position];
    node.merge = node.next == size ? MergeTable::Result{MergeTable::kNoMerge, -1}
                                   : merges_.Find(node.token, nodes[node.next].token);
    if (node.merge.rank == MergeTable::kNoMerge) return;
    queue.push(entry(node.merge.rank, position));
    ++counted.queue_pushes;
  };
  while (!queue.empty()) {
    const auto position = static_cast<int32_t>(queue.top() & UINT32_MAX);
    const auto rank = static_cast<uint32_t>(queue.top() >> 32);
    queue.pop();
    Node& node = nodes[position];
    if (node.merge.rank != rank) continue;
    Node& gone = nodes[node.next];
    gone.merge.rank = MergeTable::kNoMerge;
    node.token = node.merge.id;
    node.next = gone.next;
    if (node.next != size) nodes[node.next].previous = position;
    update(position);
    if (node.previous >= 0) update(node.previous);
    ++counted.merges;
  }
  for (int32_t i = 0; i != size; i = nodes[i].next) ids->push_back(nodes[i].token);
  if (work != nullptr) {
    work->merges += counted.merges;
    work->queue_pushes += counted.queue_pushes;
  }
}

}  // namespace qwenserve
