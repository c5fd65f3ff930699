#include "services/gateway/call/sampling_defaults.h"

namespace qwenserve {

v1::SamplingParams ResolveSampling(const v1::SamplingParams& request,
                                   const v1::SamplingParams& defaults) {
  v1::SamplingParams resolved;
  resolved.set_temperature(1);
  resolved.set_top_p(1);
  resolved.set_top_k(0);
  resolved.set_min_p(0);
  resolved.set_repetition_penalty(1);
  resolved.set_presence_penalty(0);
  resolved.set_frequency_penalty(0);
  // Merging replaces exactly the fields that are set, 0 included.
  resolved.MergeFrom(defaults);
  resolved.MergeFrom(request);
  resolved.set_seed(request.seed());
  return resolved;
}

}  // namespace qwenserve
