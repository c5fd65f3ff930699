#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_LOGPROB_LOOKUP_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_LOGPROB_LOOKUP_H_

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "qwenserve/v1/generator.pb.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"

namespace qwenserve {

// Turns a generator's log-probabilities, which are ids and numbers, into the client's, which also
// have the bytes of each token: collects the ids of one item for the tokenizer, each once, and
// finds their bytes in its result.
class LogprobLookup {
 public:
  void Clear();
  // A token and its alternatives.
  void Add(uint32_t token_id, const v1::TokenLogprobs& logprobs);
  void Fill(v1::DetokenizeItem* item) const;
  size_t size() const { return ids_.size(); }

  // Of what was added; `result` has size() lookup tokens.
  v1::TokenLogprob Make(uint32_t token_id, const v1::TokenLogprobs& logprobs,
                        const v1::DetokenizeResult& result) const;

 private:
  void AddId(uint32_t id);

  std::vector<uint32_t> ids_;
  std::unordered_map<uint32_t, int> index_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_LOGPROB_LOOKUP_H_
