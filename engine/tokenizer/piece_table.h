#ifndef QWENSERVE_ENGINE_TOKENIZER_PIECE_TABLE_H_
#define QWENSERVE_ENGINE_TOKENIZER_PIECE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace qwenserve {

// Bytes -> id of the token that is a whole piece; most pieces of real text are one.
class PieceTable {
 public:
  // `tokens` (bytes by id) must outlive the table; it has room for `capacity` insertions.
  PieceTable(const std::vector<std::string>& tokens, size_t capacity) : tokens_(tokens) {
    size_t size = 16;
    while (size < 2 * capacity) size *= 2;
    slots_.resize(size);
    mask_ = size - 1;
  }

  void Insert(int32_t id) {
    const std::string& token = tokens_[static_cast<size_t>(id)];
    const uint64_t hash = Hash(token);
    size_t i = hash & mask_;
    while (slots_[i].id >= 0) i = (i + 1) & mask_;
    slots_[i] = {hash, id};
  }

  // -1 when no token is `piece`.
  int32_t Find(absl::string_view piece) const {
    const uint64_t hash = Hash(piece);
    for (size_t i = hash & mask_; slots_[i].id >= 0; i = (i + 1) & mask_) {
      if (slots_[i].hash == hash && tokens_[static_cast<size_t>(slots_[i].id)] == piece) {
        return slots_[i].id;
      }
    }
    return -1;
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    int32_t id = -1;
  };

  static uint64_t Load(const char* p, size_t size) {
    uint64_t word = 0;
    std::memcpy(&word, p, size);
    return word;
  }
  static uint64_t Mix(uint64_t state, uint64_t word) {
    state = (state ^ word) * 0x9E3779B97F4A7C15u;
    return state ^ (state >> 29);
  }
  static uint64_t Hash(absl::string_view bytes) {
    uint64_t state = bytes.size() * 0xD6E8FEB86659FD93u;
    const char* p = bytes.data();
    size_t left = bytes.size();
    for (; left >= 8; left -= 8, p += 8) state = Mix(state, Load(p, 8));
    if (left != 0) state = Mix(state, Load(p, left));
    return state ^ (state >> 32);
  }

  const std::vector<std::string>& tokens_;
  std::vector<Slot> slots_;
  size_t mask_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_PIECE_TABLE_H_
