#include "engine/loader/group_plan.h"

#include <algorithm>
#include <numeric>

#include "kernels/linear_weight.h"

namespace qwenserve {
namespace {

constexpr int64_t kLargestGroup = 1024;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

bool CutsNoGroup(absl::Span<const int32_t> group_of, int64_t size) {
  for (size_t i = 1; i < group_of.size(); ++i) {
    if (static_cast<int64_t>(i) % size != 0 && group_of[i] != group_of[i - 1]) return false;
  }
  return true;
}

// The size of packed groups for these inputs in this order, or 0.
int64_t PackedGroupSize(absl::Span<const int32_t> group_of) {
  const auto count = static_cast<int64_t>(group_of.size());
  if (CutsNoGroup(group_of, count)) return RoundUp(count, kQuantBlock);
  for (int64_t size = kLargestGroup; size >= kQuantBlock; size /= 2) {
    if (CutsNoGroup(group_of, size)) return size;
  }
  return 0;
}

}  // namespace

GroupPlan PlanGroups(absl::Span<const int32_t> group_of) {
  GroupPlan plan;
  plan.group_size = PackedGroupSize(group_of);
  std::vector<int32_t> sorted(group_of.begin(), group_of.end());
  if (plan.group_size == 0) {
    std::vector<int32_t> order(group_of.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return group_of[a] < group_of[b]; });
    for (size_t i = 0; i < order.size(); ++i) sorted[i] = group_of[order[i]];
    plan.group_size = PackedGroupSize(sorted);
    const bool pad_each = plan.group_size == 0;
    if (pad_each) {
      plan.group_size = kQuantBlock;
      sorted.clear();
    }
    for (size_t i = 0; i < order.size(); ++i) {
      plan.input_order.push_back(order[i]);
      const int32_t group = group_of[order[i]];
      if (pad_each) sorted.push_back(group);
      const bool last = i + 1 == order.size();
      if (!last && !(pad_each && group_of[order[i + 1]] != group)) continue;
      while (plan.input_order.size() % kQuantBlock != 0) {
        plan.input_order.push_back(-1);
        if (pad_each) sorted.push_back(group);
      }
    }
  }
  for (size_t i = 0; i < sorted.size(); i += static_cast<size_t>(plan.group_size)) {
    plan.groups.push_back(sorted[i]);
  }
  return plan;
}

}  // namespace qwenserve
