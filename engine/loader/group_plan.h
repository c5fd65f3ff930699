#ifndef QWENSERVE_ENGINE_LOADER_GROUP_PLAN_H_
#define QWENSERVE_ENGINE_LOADER_GROUP_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace qwenserve {

// How a rank's inputs of a quantised matrix are packed (QuantizedShape): each packed group must lie
// inside one group of the checkpoint, whose scale it repeats.
struct GroupPlan {
  int64_t group_size = 0;
  std::vector<int32_t> input_order;  // empty: in order
  std::vector<int32_t> groups;       // of each packed group: the checkpoint's group
};

// For inputs whose groups in the checkpoint are `group_of`, not empty.
// - In order where that works: in the largest power of two from 1024 down to kQuantBlock that cuts
//   no group in two, or one group for all. A slice that begins within a group gets smaller ones.
// - Else (act-order, or a cut that is no multiple of kQuantBlock) sorted by group, and each group
//   filled up to a multiple of kQuantBlock with nothing (-1) where the groups' sizes ask for it.
GroupPlan PlanGroups(absl::Span<const int32_t> group_of);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_GROUP_PLAN_H_
