#include "engine/tokenizer/direct_bpe.h"

#include <algorithm>
#include <utility>

namespace qwenserve {

std::unique_ptr<DirectBpe> DirectBpe::Create(const Vocab& vocab, const MergeTable& merges,
                                             const int32_t* byte_ids) {
  std::unique_ptr<DirectBpe> bpe(new DirectBpe(merges));
  bpe->tokens_.resize(vocab.tokens.size());
  for (int byte = 0; byte < 256; ++byte) {
    Token& token = bpe->tokens_[static_cast<size_t>(byte_ids[byte])];
    token.made = 0;
    token.reachable = true;
  }
  if (!bpe->AddMerges(vocab.merges)) return nullptr;
  std::vector<int32_t> reachable;
  for (size_t id = 0; id < bpe->tokens_.size(); ++id) {
    bpe->tokens_[id].size = static_cast<int32_t>(vocab.tokens[id].size());
    if (bpe->tokens_[id].reachable) reachable.push_back(static_cast<int32_t>(id));
  }
  bpe->trie_ = std::make_unique<TokenTrie>(vocab.tokens, reachable);
  for (const int32_t id : reachable) {
    absl::string_view bytes = vocab.tokens[static_cast<size_t>(id)];
    bytes.remove_suffix(1);
    bpe->tokens_[static_cast<size_t>(id)].shorter = bpe->trie_->Longest(bytes).id;
  }
  return bpe;
}

bool DirectBpe::AddMerges(std::vector<Vocab::Merge> merges) {
  std::sort(merges.begin(), merges.end(),
            [](const Vocab::Merge& a, const Vocab::Merge& b) { return a.rank < b.rank; });
  for (const Vocab::Merge& merge : merges) {
    Token& result = tokens_[static_cast<size_t>(merge.result)];
    if (result.made != kNever || merge.rank >= kNever - 1) return false;
    result.made = merge.rank + 1;
    result.left = merge.left;
    result.right = merge.right;
    filter_.Add(merge.left, merge.right);
    uint32_t& as_left = tokens_[static_cast<size_t>(merge.left)].first_as_left;
    uint32_t& as_right = tokens_[static_cast<size_t>(merge.right)].first_as_right;
    as_left = std::min(as_left, result.made);
    as_right = std::min(as_right, result.made);
  }
  uint32_t previous = 0;
  for (const Vocab::Merge& merge : merges) {
    Token& result = tokens_[static_cast<size_t>(merge.result)];
    const Token& left = tokens_[static_cast<size_t>(merge.left)];
    const Token& right = tokens_[static_cast<size_t>(merge.right)];
    if (result.made == previous) return false;
    previous = result.made;
    const auto later = [&result](const Token& part) {
      return part.made != kNever && part.made >= result.made;
    };
    if (later(left) || later(right)) return false;
    result.reachable = left.reachable && right.reachable &&
                       StayApart(merge.left, merge.right, result.made, result.made);
  }
  return true;
}

bool DirectBpe::StayApart(int32_t left, int32_t right, uint32_t left_until,
                          uint32_t right_until) const {
  // Backwards in time from the moment when both are whole.
  const Token* a = &tokens_[static_cast<size_t>(left)];
  const Token* b = &tokens_[static_cast<size_t>(right)];
  while (true) {
    // Of equal pairs the leftmost goes first: the one inside the left token, or this one.
    const auto in_time = [=](uint32_t moment) {
      return moment < left_until && moment <= right_until;
    };
    if (in_time(a->first_as_left) && in_time(b->first_as_right) && filter_.MayHave(left, right)) {
      const uint32_t rank = merges_.Find(left, right).rank;
      if (rank != MergeTable::kNoMerge && in_time(rank + 1)) return false;
    }
    // Take the younger one apart: before it was made its part stood at the border.
    if (a->made > b->made) {
      left_until = a->made;
      left = a->right;
      a = &tokens_[static_cast<size_t>(left)];
    } else if (b->made > 0) {
      right_until = b->made;
      right = b->left;
      b = &tokens_[static_cast<size_t>(right)];
    } else {
      return true;
    }
  }
}

int64_t DirectBpe::Encode(absl::string_view piece, std::vector<int32_t>* ids) const {
  const size_t before = ids->size();
  std::vector<bool> hopeless;  // places behind which nothing fits; empty until there is one
  size_t at = 0;
  int64_t tried = 0;
  TokenTrie::Match next = trie_->Longest(piece);
  const auto take_shorter = [&] {
    next.id = tokens_[static_cast<size_t>(next.id)].shorter;
    if (next.id >= 0) next.size = tokens_[static_cast<size_t>(next.id)].size;
  };
  const auto fits = [&] {
    ++tried;
    if (!hopeless.empty() && hopeless[at + static_cast<size_t>(next.size)]) return false;
    return ids->size() == before || StayApart(ids->back(), next.id, kNever, kNever);
  };
  while (true) {
    while (next.id >= 0 && !fits()) take_shorter();
    if (next.id >= 0) {
      ids->push_back(next.id);
      at += static_cast<size_t>(next.size);
      if (at == piece.size()) return tried;
      next = trie_->Longest(piece.substr(at));
      continue;
    }
    if (hopeless.empty()) hopeless.resize(piece.size() + 1);
    hopeless[at] = true;
    next.id = ids->back();
    ids->pop_back();
    at -= static_cast<size_t>(tokens_[static_cast<size_t>(next.id)].size);
    take_shorter();
  }
}

}  // namespace qwenserve
