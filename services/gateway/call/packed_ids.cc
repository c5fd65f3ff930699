#include "services/gateway/call/packed_ids.h"

namespace qwenserve {

PackedIds::PackedIds(const Ids& ids) : size_(ids.size()) {
  size_t bytes = size_;
  for (const uint32_t id : ids) {
    for (uint32_t rest = id >> 7; rest != 0; rest >>= 7) ++bytes;
  }
  packed_.reserve(bytes);
  for (uint32_t id : ids) {
    for (; id >= 0x80; id >>= 7) packed_.push_back(static_cast<char>(id | 0x80));
    packed_.push_back(static_cast<char>(id));
  }
}

void PackedIds::AppendTo(Ids* ids) const {
  ids->Reserve(ids->size() + static_cast<int>(size_));
  uint32_t id = 0;
  int shift = 0;
  for (const char byte : packed_) {
    id |= static_cast<uint32_t>(byte & 0x7F) << shift;
    shift += 7;
    if ((byte & 0x80) != 0) continue;
    ids->AddAlreadyReserved(id);
    id = 0;
    shift = 0;
  }
}

}  // namespace qwenserve
