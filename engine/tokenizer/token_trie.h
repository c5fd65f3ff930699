#ifndef QWENSERVE_ENGINE_TOKENIZER_TOKEN_TRIE_H_
#define QWENSERVE_ENGINE_TOKENIZER_TOKEN_TRIE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace qwenserve {

// Finds the longest token at a place in a text, a step per byte. A double array: the child of node
// n for byte c is node n.base + c, if that one names n as its parent. Immutable after building.
class TokenTrie {
 public:
  // Of `tokens` (bytes by id) those in `ids`, all different and none empty.
  TokenTrie(const std::vector<std::string>& tokens, std::vector<int32_t> ids);

  struct Match {
    int32_t id = -1;  // -1: none
    int32_t size = 0;
  };

  // The longest token that `text` starts with.
  Match Longest(absl::string_view text) const {
    int32_t node = 0;
    for (const char c : text) {
      const int32_t child = nodes_[static_cast<size_t>(node)].base + static_cast<unsigned char>(c);
      if (nodes_[static_cast<size_t>(child)].parent != node) break;
      node = child;
    }
    return nodes_[static_cast<size_t>(node)].longest;
  }

 private:
  static constexpr int32_t kFree = -1;
  static constexpr int32_t kRoot = -2;  // nobody's child

  // In one cache line, and with the size beside the id: a text waits for little else than memory.
  struct alignas(16) Node {
    int32_t base = 0;  // of a leaf any: no node names it as parent
    int32_t parent = kFree;
    Match longest = {};  // the longest token on the way to it
  };
  // Sorted tokens [begin, end) share the bytes that lead to `node`.
  struct Subtree {
    int32_t node;
    size_t begin, end, depth;
  };

  int32_t PlaceChildren(const std::vector<unsigned char>& bytes);
  void Grow(size_t size);

  std::vector<Node> nodes_;  // 255 more than the last one used, so a look-up needs no check
  size_t search_from_ = 1;   // while building: hardly any free node before
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_TOKEN_TRIE_H_
