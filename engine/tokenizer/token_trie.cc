#include "engine/tokenizer/token_trie.h"

#include <algorithm>

namespace qwenserve {
namespace {

constexpr size_t kBytes = 256;

// A search that passes more nodes in use than this does not start so early again.
constexpr size_t kCrowded = 64;

}  // namespace

TokenTrie::TokenTrie(const std::vector<std::string>& tokens, std::vector<int32_t> ids) {
  const auto bytes = [&tokens](int32_t id) -> const std::string& {
    return tokens[static_cast<size_t>(id)];
  };
  // char_traits compares as unsigned.
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return bytes(a) < bytes(b); });
  Grow(1);
  nodes_[0].parent = kRoot;
  std::vector<Subtree> open = {{0, 0, ids.size(), 0}};
  std::vector<unsigned char> children;
  std::vector<size_t> starts;
  while (!open.empty()) {
    Subtree tree = open.back();
    open.pop_back();
    if (tree.begin != tree.end && bytes(ids[tree.begin]).size() == tree.depth) {
      nodes_[static_cast<size_t>(tree.node)].longest = {ids[tree.begin++],
                                                        static_cast<int32_t>(tree.depth)};
    }
    if (tree.begin == tree.end) continue;
    children.clear();
    starts.clear();
    for (size_t i = tree.begin; i != tree.end; ++i) {
      const auto byte = static_cast<unsigned char>(bytes(ids[i])[tree.depth]);
      if (!children.empty() && children.back() == byte) continue;
      children.push_back(byte);
      starts.push_back(i);
    }
    starts.push_back(tree.end);
    const int32_t base = PlaceChildren(children);
    nodes_[static_cast<size_t>(tree.node)].base = base;
    for (size_t i = 0; i != children.size(); ++i) {
      const int32_t child = base + children[i];
      nodes_[static_cast<size_t>(child)] = {0, tree.node,
                                            nodes_[static_cast<size_t>(tree.node)].longest};
      open.push_back({child, starts[i], starts[i + 1], tree.depth + 1});
    }
  }
}

int32_t TokenTrie::PlaceChildren(const std::vector<unsigned char>& bytes) {
  // The first child goes to a free node, so that the others, behind it, are free as well.
  size_t passed = 0;
  for (size_t first = std::max<size_t>(search_from_, bytes[0] + size_t{1});; ++first) {
    Grow(first + 1);
    if (nodes_[first].parent != kFree) {
      if (++passed == kCrowded) search_from_ = first;
      continue;
    }
    const size_t base = first - bytes[0];
    const bool fits = std::all_of(bytes.begin(), bytes.end(), [&](unsigned char byte) {
      return nodes_[base + byte].parent == kFree;
    });
    if (fits) return static_cast<int32_t>(base);
  }
}

void TokenTrie::Grow(size_t size) {
  if (size + kBytes <= nodes_.size()) return;
  nodes_.resize(2 * size + 2 * kBytes);
}

}  // namespace qwenserve
