#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_PACKED_IDS_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_PACKED_IDS_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "google/protobuf/repeated_field.h"

namespace qwenserve {

// Token ids that are kept for long and read seldom: seven bits to a byte, lowest first, the high
// bit set on all but an id's last byte (protobuf's varint). Ids of a text take two bytes or three
// rather than four. Immutable.
class PackedIds {
 public:
  using Ids = google::protobuf::RepeatedField<uint32_t>;

  PackedIds() = default;
  explicit PackedIds(const Ids& ids);

  // Adds all to `ids`, in their order.
  void AppendTo(Ids* ids) const;
  size_t size() const { return size_; }
  size_t bytes() const { return packed_.size(); }

 private:
  std::string packed_;
  size_t size_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_PACKED_IDS_H_
