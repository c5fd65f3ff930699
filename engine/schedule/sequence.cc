#include "engine/schedule/sequence.h"

#include <utility>

#include "engine/cache/kv_cache.h"
#include "kernels/check.h"

namespace qwenserve {

Sequence::Sequence(uint64_t id, SequenceRequest request, std::vector<int32_t> end_ids,
                   absl::Time now, BlockAllocator* allocator)
    : id(id),
      sampling(std::move(request.sampling)),
      sample_index(request.sample_index),
      deadline(request.deadline),
      priority(request.priority),
      num_prompt(static_cast<int64_t>(request.prompt_ids.size())),
      accepted(now),
      end_ids(std::move(end_ids)),
      tokens(std::move(request.prompt_ids)),
      num_scored(sampling.num_prompt_logprobs < 0 ? num_prompt : 1),
      blocks(allocator),
      credit(request.credit),
      resumed(!request.resumed_ids.empty()) {
  tokens.insert(tokens.end(), request.resumed_ids.begin(), request.resumed_ids.end());
}

void Sequence::DropBlocks() {
  blocks.Clear();
  num_computed = 0;
}

void Sequence::CheckIntegrity() const {
  QS_CHECK(num_prompt > 0 && num_tokens() >= num_prompt);
  QS_CHECK(num_computed >= 0 && num_computed < num_tokens());
  QS_CHECK(BlocksFor(num_computed) <= blocks.size());
  QS_CHECK(num_scored > 0 && num_scored <= num_prompt);
  QS_CHECK(credit >= 0);
}

}  // namespace qwenserve
