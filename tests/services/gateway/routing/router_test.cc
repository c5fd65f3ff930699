#include "services/gateway/routing/router.h"

#include <list>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

std::vector<ReplicaView> Idle(int count) {
  std::vector<ReplicaView> replicas;
  for (int i = 0; i < count; ++i) replicas.push_back({"replica-" + std::to_string(i), 0, true});
  return replicas;
}

RouteQuery Query(std::optional<uint64_t> key, uint64_t tokens) {
  RouteQuery query;
  query.key = key;
  query.tokens = tokens;
  return query;
}

std::optional<size_t> Choose(const std::vector<ReplicaView>& replicas, const RouteQuery& query) {
  const std::optional<Route> route = ChooseReplica(replicas, query);
  return route.has_value() ? std::optional<size_t>(route->replica) : std::nullopt;
}

TEST(RouterTest, NoneHasRoom) {
  EXPECT_EQ(Choose({}, Query(std::nullopt, 10)), std::nullopt);
  std::vector<ReplicaView> replicas = Idle(2);
  for (ReplicaView& replica : replicas) replica.has_room = false;
  RouteQuery query = Query(1, 10);
  query.known = {{"replica-0", 3}};
  EXPECT_EQ(Choose(replicas, query), std::nullopt);
}

TEST(RouterTest, WithoutKeyTheLessLoadedOfTwo) {
  std::vector<ReplicaView> replicas = Idle(2);
  replicas[0].outstanding_tokens = 30;
  replicas[1].outstanding_tokens = 20;
  EXPECT_EQ(Choose(replicas, Query(std::nullopt, 10)), 1u);
  replicas[1].share = 0.5;
  EXPECT_EQ(Choose(replicas, Query(std::nullopt, 10)), 0u);
  replicas[0].has_room = false;
  EXPECT_EQ(Choose(replicas, Query(std::nullopt, 10)), 1u);
}

TEST(RouterTest, WithoutKeyNobodyRunsAfterTheLeastLoaded) {
  std::vector<ReplicaView> replicas = Idle(16);
  for (ReplicaView& replica : replicas) replica.outstanding_tokens = 1000;
  replicas[5].outstanding_tokens = 900;
  replicas[9].outstanding_tokens = 2000;
  std::map<size_t, int> chosen;
  RouteQuery query = Query(std::nullopt, 10);
  for (query.salt = 0; query.salt < 1600; ++query.salt) ++chosen[*Choose(replicas, query)];
  EXPECT_GT(chosen[5], 150);
  EXPECT_LT(chosen[5], 300);
  EXPECT_EQ(chosen[9], 0);
  EXPECT_EQ(chosen.size(), 16u);  // with 9's zero
}

TEST(RouterTest, AKeyHasAHomeWhichDoesNotDependOnTheOrder) {
  std::vector<ReplicaView> replicas = Idle(5);
  std::vector<ReplicaView> reversed(replicas.rbegin(), replicas.rend());
  std::map<size_t, int> homes;
  for (uint64_t key = 0; key < 1000; ++key) {
    const size_t home = *Choose(replicas, Query(key, 10));
    EXPECT_EQ(*Choose(reversed, Query(key, 10)), 4 - home);
    ++homes[home];
  }
  ASSERT_EQ(homes.size(), 5u);
  for (const auto& [home, count] : homes) EXPECT_GT(count, 140) << home;
}

TEST(RouterTest, ALostReplicaMovesOnlyItsOwnKeys) {
  const std::vector<ReplicaView> replicas = Idle(5);
  const std::vector<ReplicaView> fewer(replicas.begin(), replicas.end() - 1);
  for (uint64_t key = 0; key < 1000; ++key) {
    const size_t before = *Choose(replicas, Query(key, 10));
    if (before == 4) continue;
    EXPECT_EQ(*Choose(fewer, Query(key, 10)), before);
  }
}

TEST(RouterTest, AffinityIsBoundedByLoad) {
  std::vector<ReplicaView> replicas = Idle(4);
  const size_t home = *Choose(replicas, Query(7, 1000));
  for (ReplicaView& replica : replicas) replica.outstanding_tokens = 100000;
  EXPECT_EQ(Choose(replicas, Query(7, 1000)), home);
  replicas[home].outstanding_tokens = 130000;  // 131000 <= 1.25 * 431000 / 4 + 4096
  EXPECT_EQ(Choose(replicas, Query(7, 1000)), home);
  replicas[home].outstanding_tokens = 150000;
  EXPECT_NE(Choose(replicas, Query(7, 1000)), home);
  replicas[home].outstanding_tokens = 100000;
  replicas[home].has_room = false;
  EXPECT_NE(Choose(replicas, Query(7, 1000)), home);
}

TEST(RouterTest, ALightLoadDoesNotScatterAPrefix) {
  std::vector<ReplicaView> replicas = Idle(64);
  const size_t home = *Choose(replicas, Query(7, 2000));
  replicas[home].outstanding_tokens = 2000;  // 64 times the mean
  EXPECT_EQ(Choose(replicas, Query(7, 2000)), home);
  replicas[home].outstanding_tokens = 6000;
  EXPECT_NE(Choose(replicas, Query(7, 2000)), home);
}

TEST(RouterTest, WhoHasJustComeIsBoundedByItsShare) {
  std::vector<ReplicaView> replicas = Idle(4);
  const size_t home = *Choose(replicas, Query(7, 1000));
  for (ReplicaView& replica : replicas) replica.outstanding_tokens = 100000;
  replicas[home].outstanding_tokens = 50000;
  EXPECT_EQ(Choose(replicas, Query(7, 1000)), home);
  replicas[home].share = 0.25;  // at most (1.25 * 351000 / 3.25 + 4096) * 0.25
  EXPECT_NE(Choose(replicas, Query(7, 1000)), home);
  replicas[home].outstanding_tokens = 30000;
  EXPECT_EQ(Choose(replicas, Query(7, 1000)), home);
}

TEST(RouterTest, WhoKnowsMoreOfThePromptGoesFirst) {
  std::vector<ReplicaView> replicas = Idle(4);
  const size_t home = *Choose(replicas, Query(7, 1000));
  const size_t last = (home + 1) % 4, first = (home + 2) % 4;
  for (ReplicaView& replica : replicas) replica.outstanding_tokens = 100000;
  RouteQuery query = Query(7, 1000);
  query.known = {{"gone", 9}, {replicas[last].instance_id, 8}, {replicas[first].instance_id, 2}};
  EXPECT_EQ(Choose(replicas, query), last);
  replicas[last].outstanding_tokens = 150000;
  EXPECT_EQ(Choose(replicas, query), first);
  replicas[first].has_room = false;
  EXPECT_EQ(Choose(replicas, query), home);
}

TEST(RouterTest, OneKeyForAllStaysWithinTheBound) {
  std::vector<ReplicaView> replicas = Idle(4);
  for (int i = 0; i < 1000; ++i) {
    replicas[*Choose(replicas, Query(7, 100))].outstanding_tokens += 100;
  }
  for (const ReplicaView& replica : replicas) {
    EXPECT_LE(replica.outstanding_tokens, 1.25 * 100000 / 4 + 4096);
  }
}

TEST(PrefixDirectoryTest, KeysAreHashesAtFixedDepths) {
  std::vector<uint64_t> hashes;
  for (uint64_t i = 0; i < 40; ++i) hashes.push_back(100 + i);
  using Keys = std::vector<uint64_t>;
  EXPECT_EQ(PrefixKeys(hashes, 16, ""), (Keys{115, 131}));
  hashes.resize(16);
  EXPECT_EQ(PrefixKeys(hashes, 16, ""), Keys{115});
  EXPECT_NE(PrefixKeys(hashes, 16, "a"), PrefixKeys(hashes, 16, ""));
  EXPECT_NE(PrefixKeys(hashes, 16, "a"), PrefixKeys(hashes, 16, "b"));
  hashes.resize(15);
  EXPECT_EQ(PrefixKeys(hashes, 16, ""), Keys());
  hashes.resize(2);
  EXPECT_EQ(PrefixKeys(hashes, 512, ""), (Keys{100, 101}));
  EXPECT_EQ(PrefixKeys(hashes, 0, ""), Keys());
  EXPECT_EQ(PrefixKeys({}, 16, ""), Keys());
}

TEST(PrefixDirectoryTest, FindsTheLongestBeginningsFirst) {
  PrefixDirectory directory;
  directory.Record(std::vector<uint64_t>{1, 2, 3}, "a");
  directory.Record(std::vector<uint64_t>{1, 20}, "b");
  const auto known = directory.Find(std::vector<uint64_t>{1, 2, 3, 4});
  ASSERT_EQ(known.size(), 2u);
  EXPECT_EQ(known[0].instance_id, "a");
  EXPECT_EQ(known[0].keys, 3u);
  EXPECT_EQ(known[1].instance_id, "b");
  EXPECT_EQ(known[1].keys, 1u);
  EXPECT_TRUE(directory.Find(std::vector<uint64_t>{7}).empty());
}

TEST(PrefixDirectoryTest, ForgetsTheLeastRecentlyUsed) {
  PrefixDirectory directory(3);
  directory.Record(std::vector<uint64_t>{1, 2}, "a");
  directory.Record(std::vector<uint64_t>{10}, "b");
  directory.Record(std::vector<uint64_t>{1, 3}, "c");  // 2 is the oldest now
  EXPECT_EQ(directory.size(), 3u);
  EXPECT_TRUE(directory.Find(std::vector<uint64_t>{2}).empty());
  EXPECT_EQ(directory.Find(std::vector<uint64_t>{1})[0].instance_id, "c");
  EXPECT_EQ(directory.Find(std::vector<uint64_t>{10})[0].instance_id, "b");
}

// Names of replicas that have restarted and restarted again must not pile up.
TEST(PrefixDirectoryTest, ForgetsReplicasWithTheirLastEntry) {
  PrefixDirectory directory(4);
  for (uint64_t i = 0; i < 100; ++i) {
    directory.Record(std::vector<uint64_t>{2 * i, 2 * i + 1}, absl::StrCat("replica", i));
    EXPECT_LE(directory.num_replicas(), 2u);
  }
  directory.Record(std::vector<uint64_t>{1, 2, 3, 4, 5, 6}, "last");  // more than it has room for
  EXPECT_EQ(directory.size(), 4u);
  EXPECT_EQ(directory.num_replicas(), 1u);
  EXPECT_EQ(directory.Find(std::vector<uint64_t>{1, 2, 3, 4, 5, 6})[0].keys, 4u);
}

TEST(PrefixDirectoryTest, IsALeastRecentlyUsedList) {
  constexpr size_t kCapacity = 20;
  std::mt19937_64 random(1);
  PrefixDirectory directory(kCapacity);
  std::list<std::pair<uint64_t, std::string>> expected;  // newest first
  for (int round = 0; round < 5000; ++round) {
    std::vector<uint64_t> keys;  // none twice, as in a chain of hashes
    for (uint64_t key = random() % 8; key < 40; key += 1 + random() % 12) keys.push_back(key);
    const std::string id(1, static_cast<char>('a' + random() % 5));
    directory.Record(keys, id);
    for (size_t i = keys.size(); i > 0; --i) {
      expected.remove_if([&](const auto& entry) { return entry.first == keys[i - 1]; });
      expected.emplace_front(keys[i - 1], id);
    }
    if (expected.size() > kCapacity) expected.resize(kCapacity);
    ASSERT_EQ(directory.size(), expected.size());
    std::set<std::string> ids;
    for (const auto& [key, instance_id] : expected) {
      ids.insert(instance_id);
      const auto known = directory.Find({&key, 1});
      ASSERT_EQ(known.size(), 1u) << "key " << key << ", round " << round;
      ASSERT_EQ(known[0].instance_id, instance_id) << "key " << key << ", round " << round;
    }
    ASSERT_EQ(directory.num_replicas(), ids.size());
  }
}

}  // namespace
}  // namespace qwenserve
