#include "services/gateway/routing/router.h"

#include <algorithm>

#include "engine/base/split_mix.h"

namespace qwenserve {
namespace {

// Bounded loads: no replica gets more than a quarter above its share for the sake of its cache.
constexpr double kBound = 1.25;
// And about one long request more: where a replica has two or three at a time, a quarter is less
// than a single one, and no prefix would ever be found again. By simulation: half as much loses a
// third of the cache hits, four times as much doubles the slowest first tokens under load.
constexpr double kSlack = 4096;

struct Fleet {
  absl::Span<const ReplicaView> replicas;
  double load_per_share = 0;  // with the request

  Fleet(absl::Span<const ReplicaView> views, uint64_t request) : replicas(views) {
    double load = static_cast<double>(request), shares = 0;
    for (const ReplicaView& replica : views) {
      load += static_cast<double>(replica.outstanding_tokens);
      shares += replica.share;
    }
    load_per_share = shares > 0 ? load / shares : 0;
  }

  // The lone request of an idle system is above any such bound, so an idle replica is always
  // within it.
  bool WithinBound(const ReplicaView& replica, uint64_t request) const {
    if (!replica.has_room) return false;
    if (replica.outstanding_tokens == 0) return true;
    const double bound = kBound * load_per_share + kSlack;
    return static_cast<double>(replica.outstanding_tokens + request) <= bound * replica.share;
  }
};

std::optional<size_t> FindKnown(const Fleet& fleet, const RouteQuery& query) {
  for (const PrefixDirectory::Known& known : query.known) {
    for (size_t i = 0; i < fleet.replicas.size(); ++i) {
      const ReplicaView& replica = fleet.replicas[i];
      if (replica.instance_id == known.instance_id && fleet.WithinBound(replica, query.tokens)) {
        return i;
      }
    }
  }
  return std::nullopt;
}

std::optional<size_t> FindHome(const Fleet& fleet, const RouteQuery& query) {
  std::optional<size_t> home;
  uint64_t best = 0;
  for (size_t i = 0; i < fleet.replicas.size(); ++i) {
    if (!fleet.WithinBound(fleet.replicas[i], query.tokens)) continue;
    const uint64_t score = StableHash(*query.key, fleet.replicas[i].instance_id);
    if (!home.has_value() || score > best) {
      home = i;
      best = score;
    }
  }
  return home;
}

std::optional<size_t> FindLessLoaded(absl::Span<const ReplicaView> replicas,
                                     const RouteQuery& query) {
  // The two with the highest scores are two drawn at random.
  std::optional<size_t> first, second;
  uint64_t first_score = 0, second_score = 0;
  for (size_t i = 0; i < replicas.size(); ++i) {
    if (!replicas[i].has_room) continue;
    const uint64_t score = StableHash(query.salt, replicas[i].instance_id);
    if (!first.has_value() || score > first_score) {
      second = first;
      second_score = first_score;
      first = i;
      first_score = score;
    } else if (!second.has_value() || score > second_score) {
      second = i;
      second_score = score;
    }
  }
  if (!second.has_value()) return first;
  auto relative = [&](size_t i) {
    return static_cast<double>(replicas[i].outstanding_tokens + query.tokens) / replicas[i].share;
  };
  return relative(*second) < relative(*first) ? second : first;
}

}  // namespace

uint64_t StableHash(uint64_t number, absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return SplitMix(hash ^ (number + kSplitMixStep));
}

std::optional<Route> ChooseReplica(absl::Span<const ReplicaView> replicas,
                                   const RouteQuery& query) {
  const Fleet fleet(replicas, query.tokens);
  if (std::optional<size_t> known = FindKnown(fleet, query)) {
    return Route{*known, RouteReason::kKnownPrefix};
  }
  if (query.key.has_value()) {
    if (std::optional<size_t> home = FindHome(fleet, query)) {
      return Route{*home, RouteReason::kHome};
    }
  }
  if (std::optional<size_t> least = FindLessLoaded(replicas, query)) {
    return Route{*least, RouteReason::kLeastLoad};
  }
  return std::nullopt;
}

}  // namespace qwenserve
