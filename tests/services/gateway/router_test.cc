#include "services/gateway/router.h"

#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

std::vector<ReplicaView> Idle(int count) {
  std::vector<ReplicaView> replicas;
  for (int i = 0; i < count; ++i) replicas.push_back({"replica-" + std::to_string(i), 0, true});
  return replicas;
}

TEST(RouterTest, NoneHasRoom) {
  EXPECT_EQ(ChooseReplica({}, std::nullopt, 10), std::nullopt);
  std::vector<ReplicaView> replicas = Idle(2);
  for (ReplicaView& replica : replicas) replica.has_room = false;
  EXPECT_EQ(ChooseReplica(replicas, 1, 10), std::nullopt);
}

TEST(RouterTest, WithoutKeyTheLeastLoaded) {
  std::vector<ReplicaView> replicas = Idle(3);
  replicas[0].outstanding_tokens = 30;
  replicas[1].outstanding_tokens = 20;
  replicas[2].outstanding_tokens = 25;
  EXPECT_EQ(ChooseReplica(replicas, std::nullopt, 10), 1u);
  replicas[1].has_room = false;
  EXPECT_EQ(ChooseReplica(replicas, std::nullopt, 10), 2u);
}

TEST(RouterTest, AKeyHasAHomeWhichDoesNotDependOnTheOrder) {
  std::vector<ReplicaView> replicas = Idle(5);
  std::vector<ReplicaView> reversed(replicas.rbegin(), replicas.rend());
  std::map<size_t, int> homes;
  for (uint64_t key = 0; key < 1000; ++key) {
    const size_t home = *ChooseReplica(replicas, key, 10);
    EXPECT_EQ(*ChooseReplica(reversed, key, 10), 4 - home);
    ++homes[home];
  }
  ASSERT_EQ(homes.size(), 5u);
  for (const auto& [home, count] : homes) EXPECT_GT(count, 140) << home;
}

TEST(RouterTest, ALostReplicaMovesOnlyItsOwnKeys) {
  const std::vector<ReplicaView> replicas = Idle(5);
  const std::vector<ReplicaView> fewer(replicas.begin(), replicas.end() - 1);
  for (uint64_t key = 0; key < 1000; ++key) {
    const size_t before = *ChooseReplica(replicas, key, 10);
    if (before != 4) EXPECT_EQ(*ChooseReplica(fewer, key, 10), before);
  }
}

TEST(RouterTest, AffinityIsBoundedByLoad) {
  std::vector<ReplicaView> replicas = Idle(4);
  const size_t home = *ChooseReplica(replicas, 7, 100);
  for (ReplicaView& replica : replicas) replica.outstanding_tokens = 1000;
  EXPECT_EQ(ChooseReplica(replicas, 7, 100), home);  // all alike: 1100 <= 1.25 * 4100 / 4
  replicas[home].outstanding_tokens = 1500;
  const size_t other = *ChooseReplica(replicas, 7, 100);
  EXPECT_NE(other, home);
  replicas[home].outstanding_tokens = 1000;
  replicas[home].has_room = false;
  EXPECT_NE(ChooseReplica(replicas, 7, 100), home);
}

TEST(RouterTest, OneKeyForAllStaysWithinTheBound) {
  std::vector<ReplicaView> replicas = Idle(4);
  for (int i = 0; i < 1000; ++i) {
    replicas[*ChooseReplica(replicas, 7, 100)].outstanding_tokens += 100;
  }
  for (const ReplicaView& replica : replicas) {
    EXPECT_LE(replica.outstanding_tokens, 1.25 * 100000 / 4 + 100);
  }
}

TEST(RouterTest, KeyIsTheHashOfAFixedDepth) {
  std::vector<uint64_t> hashes;
  for (uint64_t i = 0; i < 40; ++i) hashes.push_back(100 + i);
  EXPECT_EQ(AffinityKey(hashes, 16), 115u);
  hashes.resize(16);
  EXPECT_EQ(AffinityKey(hashes, 16), 115u);
  hashes.resize(15);
  EXPECT_EQ(AffinityKey(hashes, 16), std::nullopt);
  EXPECT_EQ(AffinityKey(hashes, 512), 100u);
  EXPECT_EQ(AffinityKey(hashes, 0), std::nullopt);
  EXPECT_EQ(AffinityKey({}, 16), std::nullopt);
}

}  // namespace
}  // namespace qwenserve
