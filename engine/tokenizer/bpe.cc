#include "engine/tokenizer/bpe.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {

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
  bpe->direct_ = DirectBpe::Create(vocab, bpe->merges_, bpe->byte_ids_.data());
  for (size_t i = 0; vocab.whole_pieces_first && i < vocab.tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (vocab.kinds[i] != Vocab::Kind::kRegular) continue;
    if (bpe->direct_ != nullptr && bpe->direct_->IsReachable(id)) continue;
    bpe->whole_pieces_.emplace(vocab.tokens[i], id);
  }
  return bpe;
}

Bpe::Bpe(const Vocab& vocab) : merges_(vocab.merges) {
  byte_ids_.fill(-1);
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    if (vocab.kinds[id] != Vocab::Kind::kRegular || vocab.tokens[id].size() != 1) continue;
    byte_ids_[static_cast<unsigned char>(vocab.tokens[id][0])] = static_cast<int32_t>(id);
  }
}

void Bpe::Encode(absl::string_view piece, std::vector<int32_t>* ids, Work* work) const {
  if (!whole_pieces_.empty() && piece.size() <= kMaxTokenBytes) {
    if (const auto it = whole_pieces_.find(piece); it != whole_pieces_.end()) {
      ids->push_back(it->second);
      return;
    }
  }
  if (direct_ == nullptr) {
    Merge(piece, ids, work);
    return;
  }
  const int64_t tried = direct_->Encode(piece, ids);
  if (work != nullptr) work->tried += tried;
}

void Bpe::Merge(absl::string_view piece, std::vector<int32_t>* ids, Work* work) const {
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
  Work counted = {.queue_pushes = static_cast<int64_t>(entries.size())};
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
