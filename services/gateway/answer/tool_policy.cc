#include "services/gateway/answer/tool_policy.h"

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// The finaliser of splitmix64: every bit of the result depends on every bit of `x`.
uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// Two chains with different starts make 128 bits. Not absl::Hash, whose values differ from one
// process to the next: another gateway has to find the same ids.
struct Chain {
  uint64_t high = 0x51;
  uint64_t low = 0xA3;

  void Add(uint64_t value) {
    high = Mix(high ^ value);
    low = Mix(low + value * 0xD6E8FEB86659FD93);
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
