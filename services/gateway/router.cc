#include "services/gateway/router.h"

#include <algorithm>

namespace qwenserve {
namespace {

// A shorter common beginning is cheaper to compute again than to queue for.
constexpr uint32_t kAffinityTokens = 256;
// Bounded loads: no replica gets more than a quarter above the mean for the sake of its cache.
constexpr uint64_t kBoundNumerator = 5;
constexpr uint64_t kBoundDenominator = 4;

// FNV-1a over the identity, then the finaliser of splitmix64 over both. Fixed here and not
// std::hash, because all gateways must agree whatever they were compiled with.
uint64_t Score(uint64_t key, const std::string& instance_id) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (char c : instance_id) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  uint64_t z = hash ^ (key + 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

std::optional<uint64_t> AffinityKey(absl::Span<const uint64_t> block_hashes,
                                    uint32_t block_tokens) {
  if (block_tokens == 0) return std::nullopt;
  const size_t blocks = std::max<size_t>(1, kAffinityTokens / block_tokens);
  if (block_hashes.size() < blocks) return std::nullopt;
  return block_hashes[blocks - 1];
}

std::optional<size_t> ChooseReplica(absl::Span<const ReplicaView> replicas,
                                    std::optional<uint64_t> key, uint64_t request_tokens) {
  uint64_t total = request_tokens;
  for (const ReplicaView& replica : replicas) total += replica.outstanding_tokens;

  std::optional<size_t> home;
  std::optional<size_t> least;
  auto score = [&](size_t i) { return Score(key.value_or(0), replicas[i].instance_id); };
  for (size_t i = 0; i < replicas.size(); ++i) {
    const ReplicaView& replica = replicas[i];
    if (!replica.has_room) continue;
    const uint64_t load = replica.outstanding_tokens;
    // load + request <= 5/4 * total / replicas, without rounding. The lone request of an idle
    // system is above any such bound, so an idle replica is always within it.
    const bool within_bound =
        load == 0 ||
        (load + request_tokens) * replicas.size() * kBoundDenominator <= total * kBoundNumerator;
    if (key.has_value() && within_bound && (!home || score(i) > score(*home))) home = i;
    const bool less = !least || load < replicas[*least].outstanding_tokens ||
                      (load == replicas[*least].outstanding_tokens && score(i) > score(*least));
    if (less) least = i;
  }
  return home ? home : least;
}

}  // namespace qwenserve
