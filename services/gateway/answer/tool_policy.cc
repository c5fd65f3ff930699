#include "services/gateway/answer/tool_policy.h"

#include "absl/strings/str_cat.h"
#include "engine/base/split_mix.h"

namespace qwenserve {
namespace {

// Two chains with different starts make 128 bits. Not absl::Hash, whose values differ from one
// process to the next: another gateway has to find the same ids.
struct Chain {
  uint64_t high = 0x51;
  uint64_t low = 0xA3;

  void Add(uint64_t value) {
    high = SplitMix((high ^ value) + kSplitMixStep);
    low = SplitMix(low + value * 0xD6E8FEB86659FD93 + kSplitMixStep);
  }
};

}  // namespace

std::string ToolCallIdSeed(uint64_t seed, const uint32_t* prompt_ids, size_t size) {
  Chain chain;
  chain.Add(seed);
  for (size_t i = 0; i < size; ++i) chain.Add(prompt_ids[i]);
  return absl::StrCat(absl::Hex(chain.high, absl::kZeroPad16),
                      absl::Hex(chain.low, absl::kZeroPad16));
}

std::string ToolCallId(absl::string_view id_seed, uint32_t choice, uint32_t call) {
  Chain chain;
  for (const char c : id_seed) chain.Add(static_cast<unsigned char>(c));
  chain.Add(choice);
  chain.Add(call);
  return absl::StrCat("call_", absl::Hex(chain.high, absl::kZeroPad16),
                      absl::Hex(chain.low >> 32, absl::kZeroPad8));
}

}  // namespace qwenserve
