#include "tests/engine/schedule/fake_device.h"

#include <algorithm>
#include <map>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/attention_batch.h"

namespace qwenserve {
namespace {

uint64_t Mix(uint64_t state, uint64_t value) {
  uint64_t mixed = (state ^ value) * 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ (mixed >> 32)) * 0xd6e8feb86659fd93u;
  return mixed ^ (mixed >> 29);
}

uint64_t StartState(int64_t prompt_tokens) {
  return Mix(17, static_cast<uint64_t>(FakeRopeVariant(prompt_tokens)));
}

int32_t Draw(uint64_t state, uint64_t seed) {
  return static_cast<int32_t>(Mix(state, seed) % kFakeVocab);
}

}  // namespace

int64_t FakeRopeVariant(int64_t prompt_tokens) { return prompt_tokens / 50; }

int32_t FakeNextToken(absl::Span<const int32_t> tokens, int64_t prompt_tokens, uint64_t seed) {
  uint64_t state = StartState(prompt_tokens);
  for (int32_t id : tokens) state = Mix(state, static_cast<uint64_t>(id));
  return Draw(state, seed);
}

FakeDevice::FakeDevice(int64_t num_blocks, bool reads_last_id)
    : reads_last_id_(reads_last_id), memory_(num_blocks * kKvBlockSize), owners_(num_blocks, -1) {}

FakeDevice::Slot& FakeDevice::At(const PlanSequence& part, int64_t position) {
  return memory_[part.blocks[position / kKvBlockSize] * kKvBlockSize + position % kKvBlockSize];
}

uint64_t FakeDevice::CheckedState(const PlanSequence& part) {
  uint64_t state = StartState(part.prompt_tokens);
  for (int64_t p = 0; p < part.first_position; ++p) {
    const Slot& slot = At(part, p);
    state = Mix(state, static_cast<uint64_t>(slot.id));
    EXPECT_EQ(slot.state, state) << "position " << p << " does not hold this sequence's contents";
    if (slot.state != state) return 0;
  }
  return state;
}

void FakeDevice::CheckWrites(const StepPlan& plan) const {
  std::map<int32_t, int> users;
  for (const PlanSequence& part : plan.sequences) {
    for (int32_t block : part.blocks) ++users[block];
  }
  for (const PlanSequence& part : plan.sequences) {
    for (size_t b = part.first_position / kKvBlockSize; b < part.blocks.size(); ++b) {
      EXPECT_EQ(users[part.blocks[b]], 1) << "block " << part.blocks[b] << " is written and shared";
    }
  }
}

void FakeDevice::CheckOwner(const PlanSequence& part, int owner) {
  for (int32_t block : part.blocks) {
    if (owners_[block] < 0) owners_[block] = owner;
    EXPECT_EQ(owners_[block], owner) << "block " << block << " is shared between tenants";
  }
}

std::vector<int32_t> FakeDevice::InputsOf(const PlanSequence& part) const {
  if (part.sampled_by_row < 0) return part.ids;
  EXPECT_EQ(part.ids.size(), 1);
  EXPECT_LT(part.sampled_by_row, static_cast<int32_t>(drawn_.size()));
  if (part.sampled_by_row >= static_cast<int32_t>(drawn_.size())) return {0};
  return {std::max(drawn_[part.sampled_by_row], 0)};
}

SampledToken FakeDevice::DrawFor(const PlanSequence& part, int64_t position, uint64_t state,
                                 absl::Span<const int32_t> inputs) const {
  const SampleRow& row = part.sample;
  const bool ahead = part.sampled_by_row >= 0;
  EXPECT_EQ(row.position, position);
  EXPECT_EQ(static_cast<int64_t>(row.context_ids.size()), position - (ahead ? 1 : 0));
  EXPECT_FALSE(ahead && ReadsContext(row) && !reads_last_id_) << "the context is not known";
  std::vector<int32_t> context(row.context_ids.begin(), row.context_ids.end());
  if (ahead) context.push_back(inputs[0]);
  SampledToken token;
  token.id = Draw(state, row.seed);
  EXPECT_EQ(token.id, FakeNextToken(context, part.prompt_tokens, row.seed));
  return token;
}

std::vector<SampledToken> FakeDevice::Run(const StepPlan& plan,
                                          const std::function<int(uint64_t)>& owner_of_seed,
                                          const std::function<bool()>& breaks) {
  CheckWrites(plan);
  // All rows of a step read what the steps before have written.
  std::vector<uint64_t> states;
  for (const PlanSequence& part : plan.sequences) states.push_back(CheckedState(part));
  std::vector<SampledToken> tokens;
  std::vector<int32_t> drawn;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& part = plan.sequences[i];
    const std::vector<int32_t> inputs = InputsOf(part);
    int64_t position = part.first_position;
    for (int32_t id : inputs) {
      states[i] = Mix(states[i], static_cast<uint64_t>(id));
      if (position % kKvBlockSize == 0) owners_[part.blocks[position / kKvBlockSize]] = -1;
      At(part, position++) = {id, states[i]};
      ++rows_;
    }
    for (int32_t row = part.first_scored; row < part.first_scored + part.num_scored; ++row) {
      const size_t next = static_cast<size_t>(row) + 1;
      tokens.push_back({.id = next < part.ids.size() ? part.ids[next] : part.next_id});
      if (breaks()) tokens.back().id = -1;
    }
    if (!part.wants_logits) continue;
    CheckOwner(part, owner_of_seed(part.sample.seed));
    tokens.push_back(DrawFor(part, position, states[i], inputs));
    if (breaks()) tokens.back().id = -1;
    drawn.push_back(tokens.back().id);
  }
  drawn_ = std::move(drawn);
  return tokens;
}

}  // namespace qwenserve
