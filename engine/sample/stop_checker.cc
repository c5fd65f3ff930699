#include "engine/sample/stop_checker.h"

#include <algorithm>
#include <utility>

namespace qwenserve {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

StopChecker::StopChecker(std::vector<int32_t> eos_ids) : eos_ids_(std::move(eos_ids)) {}

StopVerdict StopChecker::Check(const SamplingParams& params, int32_t id,
                               int64_t answer_tokens) const {
  if (!params.ignore_eos && Contains(eos_ids_, id)) return StopVerdict::kStopToken;
  if (Contains(params.stop_token_ids, id)) return StopVerdict::kStopToken;
  if (answer_tokens + 1 >= params.max_tokens) return StopVerdict::kLastToken;
  return StopVerdict::kContinue;
}

std::vector<int32_t> StopChecker::EndIds(const SamplingParams& params) const {
  std::vector<int32_t> ids = params.stop_token_ids;
  if (!params.ignore_eos) ids.insert(ids.end(), eos_ids_.begin(), eos_ids_.end());
  return ids;
}

}  // namespace qwenserve
