#include "tools/qwenctl/bench/bench_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

// Words that are one token in the vocabularies of all Qwen models, when a blank is before them.
constexpr const char* kWords[] = {"time", "year", "people", "way", "day", "man",  "new",  "good",
                                  "work", "life", "hand",   "old", "see", "find", "give", "tell"};

// Ids are drawn from the part of a vocabulary where ordinary tokens are: control tokens and unused
// rows are at its end.
uint32_t OrdinaryIds(uint32_t vocab_size) { return vocab_size / 10 * 9; }

}  // namespace

absl::StatusOr<BenchPlan> BenchPlan::Create(const BenchOptions& options, uint32_t vocab_size) {
  QS_ASSIGN_OR_RETURN(const LengthSpec prompt, LengthSpec::Parse(options.prompt_tokens));
  QS_ASSIGN_OR_RETURN(const LengthSpec answer, LengthSpec::Parse(options.max_tokens));
  return BenchPlan(options, prompt, answer, vocab_size);
}

BenchPlan::BenchPlan(const BenchOptions& options, LengthSpec prompt, LengthSpec answer,
                     uint32_t vocab_size)
    : options_(options),
      prompt_(prompt),
      answer_(answer),
      vocab_size_(OrdinaryIds(vocab_size)),
      random_(options.seed) {
  for (uint32_t group = 0; group < std::max(1u, options.prefix_groups); ++group) {
    prefixes_.push_back(DrawIds(random_, options.prefix_tokens));
  }
}

std::vector<uint32_t> BenchPlan::DrawIds(std::mt19937_64& random, uint32_t count) const {
  std::uniform_int_distribution<uint32_t> id(0, std::max(1u, vocab_size_) - 1);
  if (vocab_size_ == 0) id = std::uniform_int_distribution<uint32_t>(0, 15);
  std::vector<uint32_t> ids(count);
  for (uint32_t& value : ids) value = id(random);
  return ids;
}

PlannedRequest BenchPlan::Next() {
  PlannedRequest request;
  request.number = next_++;
  if (options_.open_loop()) {
    start_ += absl::Seconds(std::exponential_distribution<double>(options_.rate)(random_));
    request.start = start_;
  }
  const uint32_t length = prompt_.Draw(random_);
  request.max_tokens = answer_.Draw(random_);
  request.seed = random_() >> 11;
  const size_t group = random_() % prefixes_.size();
  std::vector<uint32_t> ids = prefixes_[group];
  // At least one token of its own, so that no two prompts are the same.
  const std::vector<uint32_t> own =
      DrawIds(random_, length > ids.size() ? length - static_cast<uint32_t>(ids.size()) : 1);
  ids.insert(ids.end(), own.begin(), own.end());
  if (!options_.chat && vocab_size_ > 0) {
    request.prompt_ids = std::move(ids);
    return request;
  }
  for (uint32_t id : ids) absl::StrAppend(&request.prompt_text, " ", kWords[id % 16]);
  return request;
}

}  // namespace qwenserve
