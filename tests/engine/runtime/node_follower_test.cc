// Replicas over several nodes. The nodes are threads of this program, their ranks threads or
// processes of it, and what lies between is a channel in memory.
#include "engine/runtime/node_follower.h"

#include <signal.h>

#include <filesystem>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "engine/runtime/follower.h"
#include "engine/runtime/node_start.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/parallel/channel_pair.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

// The nodes beside the leader's, and the leader.
class Nodes {
 public:
  Nodes(const EngineOptions& options, int num_nodes, const std::string& model_of_others) {
    std::vector<std::shared_ptr<NodeChannel>> channels;
    for (int node = 1; node < num_nodes; ++node) {
      pairs_.push_back(std::make_unique<ChannelPair>());
      channels.push_back(pairs_.back()->end(0));
      ends_.push_back(std::async(std::launch::async,
                                 [this, options, model_of_others, channel = pairs_.back()->end(1)] {
                                   NodeFollowerOptions own;
                                   own.model_dir = model_of_others;
                                   own.rank_binary = options.rank_binary;
                                   own.on_ready = [this] { ++ready_; };
                                   return FollowNode(own, channel);
                                 }));
    }
    EngineOptions leader = options;
    leader.num_nodes = num_nodes;
    leader.join_nodes = [channels] { return channels; };
    harness_ = std::make_unique<EngineHarness>(leader);
  }
  Nodes(const EngineOptions& options, int num_nodes)
      : Nodes(options, num_nodes, options.model_dir) {}

  EngineHarness& leader() { return *harness_; }
  ChannelPair& channel(int i) { return *pairs_[i]; }
  int ready() const { return ready_; }
  void EndLeader() { harness_.reset(); }
  absl::Status EndOf(int i) { return ends_[i].get(); }

 private:
  std::atomic<int> ready_{0};
  std::vector<std::unique_ptr<ChannelPair>> pairs_;
  std::vector<std::future<absl::Status>> ends_;
  std::unique_ptr<EngineHarness> harness_;
};

EngineOptions NodeOptions(int tp, RankMode mode) {
  EngineOptions options = TinyOptions(WriteTinyCheckpoint("node_follower", TinyModel()));
  options.tp = tp;
  options.rank_mode = mode;
  options.rank_binary = std::filesystem::read_symlink("/proc/self/exe").string();
  return options;
}

struct Shape {
  int tp;
  int num_nodes;
  RankMode mode;
};

class SeveralNodes : public testing::TestWithParam<Shape> {};

TEST_P(SeveralNodes, GiveTheTokensOfOneAndEndWithTheLeader) {
  const auto [tp, num_nodes, mode] = GetParam();
  const std::vector<SequenceRequest> requests = MixedRequests(6, 320);
  const EngineOptions options = NodeOptions(tp, mode);
  EngineHarness alone(options);
  ASSERT_TRUE(alone.status().ok()) << alone.status();
  const auto expected = alone.GenerateAll(requests);

  Nodes nodes(options, num_nodes);
  ASSERT_TRUE(nodes.leader().status().ok()) << nodes.leader().status();
  EXPECT_EQ(nodes.leader().GenerateAll(requests), expected);
  EXPECT_EQ(nodes.leader().engine().info().fingerprint, alone.engine().info().fingerprint);
  nodes.EndLeader();
  for (int i = 0; i + 1 < num_nodes; ++i) EXPECT_EQ(nodes.EndOf(i), absl::OkStatus());
  EXPECT_EQ(nodes.ready(), num_nodes - 1);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SeveralNodes,
                         testing::Values(Shape{2, 2, RankMode::kThreads},
                                         Shape{3, 3, RankMode::kThreads},
                                         Shape{4, 2, RankMode::kThreads},
                                         Shape{4, 2, RankMode::kProcesses}));

TEST(LostNode, ACableThatIsPulledEndsBothSides) {
  Nodes nodes(NodeOptions(2, RankMode::kThreads), 2);
  ASSERT_TRUE(nodes.leader().status().ok()) << nodes.leader().status();
  nodes.channel(0).Cut();
  const absl::Status end = nodes.EndOf(0);
  EXPECT_THAT(std::string(end.message()), HasSubstr("node 0 is lost: it has been silent for 4s"));
  while (nodes.leader().engine().Health().ok()) std::this_thread::yield();
  EXPECT_THAT(std::string(nodes.leader().engine().Health().message()),
              HasSubstr("node 1 is lost"));  // silent, or gone for the same reason
}

TEST(LostNode, AChannelThatBreaksFailsWhatRuns) {
  Nodes nodes(NodeOptions(2, RankMode::kThreads), 2);
  ASSERT_TRUE(nodes.leader().status().ok()) << nodes.leader().status();
  SequenceRequest request = GreedyRequest({1, 2, 3}, 500);
  request.credit = 1;
  const uint64_t sequence = nodes.leader().Submit(request);
  nodes.leader().WaitForIds(sequence, 1);
  nodes.channel(0).end(0)->Close();
  const Answer answer = nodes.leader().Wait(sequence);
  EXPECT_EQ(answer.finish, FinishReason::kError);
  EXPECT_THAT(std::string(answer.error.message()), HasSubstr("node 1 is lost"));
  EXPECT_EQ(nodes.EndOf(0).code(), absl::StatusCode::kUnavailable);
}

TEST(LostNode, AnotherCheckpointIsRefusedOnBothSides) {
  TinyModel other;
  other.seed += 1;
  const std::string dir = WriteTinyCheckpoint("node_follower_other", other);
  Nodes nodes(NodeOptions(2, RankMode::kThreads), 2, dir);
  EXPECT_THAT(std::string(nodes.leader().status().message()),
              HasSubstr("is not the checkpoint that the leader has"));
  EXPECT_EQ(nodes.EndOf(0).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(LostNode, ALeaderThatCannotStartEndsTheOthers) {
  EngineOptions options = NodeOptions(4, RankMode::kProcesses);
  options.rank_binary = "/bin/false";
  Nodes nodes(options, 2);
  EXPECT_FALSE(nodes.leader().status().ok());
  EXPECT_FALSE(nodes.EndOf(0).ok());
}

TEST(NodeCount, MustCutTheRanksEvenly) {
  EngineOptions options = NodeOptions(3, RankMode::kThreads);
  options.num_nodes = 2;
  EXPECT_EQ(EngineHarness(options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(NodeStart, SurvivesItsTextAndRefusesNonsense) {
  NodeStart start;
  start.node = 1;
  start.mode = RankMode::kProcesses;
  start.checkpoint = "abc";
  RankSettings rank;
  rank.tp = 2;
  rank.rank = 1;
  rank.limits = {.max_rows = 1, .max_sequences = 1, .max_model_len = 1, .num_blocks = 1};
  start.ranks = {rank};
  const auto parsed = NodeStartFromJson(NodeStartToJson(start));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(NodeStartToJson(*parsed), NodeStartToJson(start));
  start.ranks[0].rank = 0;
  EXPECT_FALSE(NodeStartFromJson(NodeStartToJson(start)).ok());
  EXPECT_FALSE(NodeStartFromJson("{}").ok());
  EXPECT_FALSE(NodeStartFromJson("[").ok());
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (qwenserve::IsFollowerCommand(argc, argv)) return qwenserve::RunFollower(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
