#include "engine/schedule/sequence.h"

#include <utility>

#include "engine/cache/kv_cache.h"
#include "kernels/check.h"

namespace qwenserve {

Sequence::Sequence(uint64_t id, SequenceRequest request, std::vector<int32_t> end_ids,
                   absl::Time now, absl::Time turn, const BlockKey& root, BlockAllocator* allocator)
    : id(id),
      sampling(std::move(request.sampling)),
      sample_index(request.sample_index),
      deadline(request.deadline),
      num_prompt(static_cast<int64_t>(request.prompt_ids.size())),
      accepted(now),
      turn(turn),
      end_ids(std::move(end_ids)),
      tokens(std::move(request.prompt_ids)),
      num_scored(sampling.num_prompt_logprobs < 0 ? num_prompt : 1),
      scores_planned(num_scored),
      blocks(allocator),
      keys(root),
      credit(request.credit) {
  tokens.insert(tokens.end(), request.resumed_ids.begin(), request.resumed_ids.end());
}

void Sequence::DropBlocks() {
  blocks.Clear();
  num_computed = 0;
  num_planned = 0;
  ++losses;
  published = 0;
}

void Sequence::CheckIntegrity() const {
  QS_CHECK(num_prompt > 0 && num_tokens() >= num_prompt);
  QS_CHECK(num_computed >= 0 && num_computed < num_tokens());
  QS_CHECK(num_computed <= num_planned && num_unknown >= 0 && rows_left() > 0);
  QS_CHECK(BlocksFor(num_planned) <= blocks.size());
  QS_CHECK(num_scored > 0 && num_scored <= scores_planned && scores_planned <= num_prompt);
  QS_CHECK(published <= num_computed / kKvBlockSize);
  QS_CHECK(credit >= 0);
}

}  // namespace qwenserve
