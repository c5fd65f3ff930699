#include "services/gateway/answer/logprob_lookup.h"

namespace qwenserve {

void LogprobLookup::Clear() {
  ids_.clear();
  index_.clear();
}

void LogprobLookup::AddId(uint32_t id) {
  if (index_.emplace(id, static_cast<int>(ids_.size())).second) ids_.push_back(id);
}

void LogprobLookup::Add(uint32_t token_id, const v1::TokenLogprobs& logprobs) {
  AddId(token_id);
  for (uint32_t id : logprobs.top_ids()) AddId(id);
}

void LogprobLookup::Fill(v1::DetokenizeItem* item) const {
  item->mutable_lookup_ids()->Add(ids_.begin(), ids_.end());
}

v1::TokenLogprob LogprobLookup::Make(uint32_t token_id, const v1::TokenLogprobs& logprobs,
                                     const v1::DetokenizeResult& result) const {
  const auto bytes = [&](uint32_t id) { return result.lookup_tokens(index_.at(id)); };
  v1::TokenLogprob token;
  token.set_token_id(token_id);
  token.set_token(bytes(token_id));
  token.set_logprob(logprobs.logprob());
  for (int i = 0; i < logprobs.top_ids_size(); ++i) {
    v1::TopLogprob* top = token.add_top();
    top->set_token_id(logprobs.top_ids(i));
    top->set_token(bytes(logprobs.top_ids(i)));
    top->set_logprob(logprobs.top_logprobs(i));
  }
  return token;
}

}  // namespace qwenserve
