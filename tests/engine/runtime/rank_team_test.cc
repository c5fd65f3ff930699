// Replicas of several ranks, as threads and as processes of this very program.
#include "engine/runtime/rank_team.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "engine/runtime/child_process.h"
#include "engine/runtime/follower.h"
#include "engine/runtime/machine_limits.h"
#include "engine/runtime/placement.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "spdlog/spdlog.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

constexpr char kOwnEngine[] = "--own-engine";

EngineOptions TeamOptions(int tp, RankMode mode) {
  EngineOptions options = TinyOptions(WriteTinyCheckpoint("rank_team", TinyModel()));
  options.tp = tp;
  options.rank_mode = mode;
  return options;
}

TEST(RankTeam, ThreadsAndProcessesGiveTheSameTokens) {
  const std::vector<SequenceRequest> requests = MixedRequests(8, 320);
  for (int tp : {2, 3, 4}) {
    SCOPED_TRACE(tp);
    EngineHarness threads(TeamOptions(tp, RankMode::kThreads));
    ASSERT_TRUE(threads.status().ok()) << threads.status();
    const auto expected = threads.GenerateAll(requests);
    EngineHarness processes(TeamOptions(tp, RankMode::kProcesses));
    ASSERT_TRUE(processes.status().ok()) << processes.status();
    EXPECT_EQ(processes.follower_pids().size(), static_cast<size_t>(tp - 1));
    EXPECT_EQ(processes.GenerateAll(requests), expected);
    EXPECT_EQ(processes.engine().info().fingerprint, threads.engine().info().fingerprint);
    for (RankMode mode : {RankMode::kThreads, RankMode::kProcesses}) {
      EngineOptions options = TeamOptions(tp, mode);
      options.run_ahead = true;
      EngineHarness ahead(options);
      ASSERT_TRUE(ahead.status().ok()) << ahead.status();
      EXPECT_EQ(ahead.GenerateAll(requests), expected);
    }
    for (const RankProgress& rank : processes.engine().Stats().ranks) EXPECT_GT(rank.step, 0);
  }
}

TEST(RankTeam, ServesRandomWeightsFromAConfigurationAlone) {
  const std::string dir = WriteTinyCheckpoint("rank_team_dummy", TinyModel());
  std::filesystem::remove(dir + "/model.safetensors");
  const std::vector<SequenceRequest> requests = MixedRequests(4, 320);
  for (const WeightChoice weights : {WeightChoice::kAuto, WeightChoice::kInt4}) {
    for (const int tp : {1, 2}) {
      EngineOptions options = TinyOptions(dir);
      options.tp = tp;
      options.rank_mode = RankMode::kProcesses;
      options.weights = weights;
      EXPECT_FALSE(EngineHarness(options).status().ok());
      options.load_format = LoadFormat::kDummy;
      EngineHarness harness(options);
      ASSERT_TRUE(harness.status().ok()) << harness.status();
      EXPECT_EQ(harness.engine().info().fingerprint.substr(0, 6), "dummy-");
      const auto ids = harness.GenerateAll(requests);
      options.rank_mode = RankMode::kThreads;
      EXPECT_EQ(EngineHarness(options).GenerateAll(requests), ids);
      // Not one token over and over.
      EXPECT_GT(std::set<int32_t>(ids[0].begin(), ids[0].end()).size(), 1u);
    }
  }
}

class WithKill : public testing::TestWithParam<std::tuple<bool, bool>> {};

// A rank that is killed, in the middle of a step or while nothing is to be done.
TEST_P(WithKill, AKilledRankFailsTheReplicaAtOnce) {
  const auto [in_a_step, run_ahead] = GetParam();
  EngineOptions options = TeamOptions(2, RankMode::kProcesses);
  options.run_ahead = run_ahead;
  options.step_timeout = absl::Hours(1);  // it must not be the time-out that notices
  EngineHarness harness(options);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const pid_t follower = harness.follower_pids()[0];
  SequenceRequest request = GreedyRequest({1, 2, 3}, 500);
  request.credit = 1;
  const uint64_t sequence = harness.Submit(request);
  harness.WaitForIds(sequence, 1);
  if (in_a_step) {
    ASSERT_EQ(kill(follower, SIGSTOP), 0);  // rank 0 now waits for it in the next step
    harness.engine().AddCredit(sequence, 1);
    while (harness.engine().Stats().ranks[0].step_age == absl::ZeroDuration()) usleep(1000);
  }
  ASSERT_EQ(kill(follower, SIGKILL), 0);
  const Answer answer = harness.Wait(sequence);
  EXPECT_EQ(answer.finish, FinishReason::kError);
  EXPECT_EQ(answer.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(answer.error.message()), HasSubstr("rank 1 has ended: signal 9"));
  EXPECT_EQ(harness.engine().Health(), answer.error);
  EXPECT_EQ(harness.engine().Submit(GreedyRequest({1}, 1)).status(), answer.error);
  const EngineStats stats = harness.engine().Stats();
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
}
INSTANTIATE_TEST_SUITE_P(IdleAndInAStep, WithKill,
                         testing::Combine(testing::Bool(), testing::Bool()));

class WithStall : public testing::TestWithParam<bool> {};

TEST_P(WithStall, AStalledRankFailsTheReplicaAfterItsTime) {
  EngineOptions options = TeamOptions(2, RankMode::kProcesses);
  options.run_ahead = GetParam();
  options.step_timeout = absl::Seconds(3);
  EngineHarness harness(options);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  ASSERT_EQ(kill(harness.follower_pids()[0], SIGSTOP), 0);
  const Answer answer = harness.Generate(GreedyRequest({1, 2, 3}, 10));
  EXPECT_EQ(answer.finish, FinishReason::kError);
  EXPECT_THAT(std::string(answer.error.message()), HasSubstr("rank 1 is stalled"));
  EXPECT_FALSE(harness.engine().Health().ok());
}

INSTANTIATE_TEST_SUITE_P(StepByStepAndAhead, WithStall, testing::Bool());

TEST(RankTeam, AFollowerThatCannotStartIsAnError) {
  EngineOptions options = TeamOptions(2, RankMode::kProcesses);
  options.rank_binary = "/nowhere/at/all";
  EXPECT_EQ(EngineHarness(options).status().code(), absl::StatusCode::kNotFound);
  options.rank_binary = "/bin/false";
  const absl::Status status = EngineHarness(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 has ended: exit status 1"));
}

TEST(RankTeam, AFollowerCommandFromElsewhereIsRefused) {
  char name[] = "x", flag[] = "--follower-rank", parent[] = "1", json[] = "{}";
  char* argv[] = {name, flag, parent, json};
  EXPECT_TRUE(IsFollowerCommand(4, argv));
  EXPECT_FALSE(IsFollowerCommand(3, argv));
  EXPECT_EXIT(_exit(RunFollower(4, argv)), testing::ExitedWithCode(2), "");
}

// A follower's standard output is the server's own, which a machine reads.
TEST(RankTeam, AFollowerLogsToStderr) {
  int to_test[2];
  ASSERT_EQ(pipe(to_test), 0);
  const std::string parent = std::to_string(getpid());
  const pid_t follower = fork();
  if (follower == 0) {
    dup2(to_test[1], STDOUT_FILENO);
    close(ChildProcess::kInheritedFd);  // so that it fails, and says so
    execl("/proc/self/exe", "rank_team_test", "--follower-rank", parent.c_str(), "{}", nullptr);
    _exit(127);
  }
  close(to_test[1]);
  char output[100];
  EXPECT_EQ(read(to_test[0], output, sizeof(output)), 0);
  close(to_test[0]);
  int status = 0;
  ASSERT_EQ(waitpid(follower, &status, 0), follower);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

// Starts this program as the owner of an engine with one follower process, and returns both ids.
std::pair<pid_t, pid_t> StartOwner(const std::string& model_dir) {
  int to_test[2];
  EXPECT_EQ(pipe(to_test), 0);
  const pid_t owner = fork();
  if (owner == 0) {
    dup2(to_test[1], STDOUT_FILENO);
    close(to_test[0]);
    close(to_test[1]);
    execl("/proc/self/exe", "rank_team_test", kOwnEngine, model_dir.c_str(), nullptr);
    _exit(127);
  }
  close(to_test[1]);
  FILE* reading = fdopen(to_test[0], "r");
  int follower = -1;
  EXPECT_EQ(fscanf(reading, "follower %d", &follower), 1);
  fclose(reading);
  return {owner, follower};
}

int OwnEngine(const char* model_dir) {
  spdlog::set_level(spdlog::level::off);
  EngineOptions options = TinyOptions(model_dir);
  options.tp = 2;
  options.rank_mode = RankMode::kProcesses;
  EngineHarness harness(options);
  if (!harness.status().ok()) return 1;
  std::printf("follower %d\n", harness.follower_pids()[0]);
  std::fflush(stdout);
  while (true) pause();
}

TEST(RankTeam, AKilledLeaderLeavesNoFollower) {
  // Orphans become this process's children, so that it can see how they end.
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  const auto [owner, follower] = StartOwner(TeamOptions(2, RankMode::kProcesses).model_dir);
  ASSERT_GT(follower, 0);
  ASSERT_EQ(kill(owner, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(waitpid(owner, &status, 0), owner);
  ASSERT_EQ(waitpid(follower, &status, 0), follower);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

// Two steps in flight, the second fed with ids that the first has yet to draw.
TEST(RankTeam, AStepMayTakeIdsThatTheOneBeforeDraws) {
  for (int tp : {1, 2}) {
    SCOPED_TRACE(tp);
    EngineOptions options = TeamOptions(tp, RankMode::kThreads);
    auto checkpoint = Checkpoint::Open(options.model_dir);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    auto placement = ChoosePlacement(options, **checkpoint, ReadCpuLimits(), ReadMemoryLimits());
    ASSERT_TRUE(placement.ok()) << placement.status();
    auto team = RankTeam::Start(
        placement->ranks, RankMode::kThreads, "", {}, **checkpoint, [] {}, nullptr);
    ASSERT_TRUE(team.ok()) << team.status();

    const auto part = [&](int64_t position, std::vector<int32_t> ids, int32_t block) {
      PlanSequence sequence;
      sequence.first_position = position;
      sequence.ids = std::move(ids);
      sequence.prompt_tokens = 3;
      sequence.blocks = {block};
      sequence.wants_logits = true;
      sequence.sample.temperature = 0;
      return sequence;
    };
    StepPlan first, second;
    first.step = 1;
    first.sequences = {part(0, {5, 6, 7}, 0), part(0, {8, 9, 10}, 1)};
    second.step = 2;
    second.sequences = {part(3, {0}, 1), part(3, {0}, 0)};
    second.sequences[0].sampled_by_row = 1;
    second.sequences[1].sampled_by_row = 0;
    const uint64_t one = *(*team)->Launch(first);
    const uint64_t two = *(*team)->Launch(second);
    const auto collect = [&](uint64_t ticket) {
      const std::vector<SampledToken> tokens = *(*team)->Collect(ticket);
      std::vector<int32_t> ids;
      for (const SampledToken& token : tokens) ids.push_back(token.id);
      return ids;
    };
    const std::vector<int32_t> drawn = collect(one);
    const std::vector<int32_t> ahead = collect(two);

    second.step = 3;
    second.sequences[0] = part(3, {drawn[1]}, 1);
    second.sequences[1] = part(3, {drawn[0]}, 0);
    const std::vector<int32_t> literal = collect(*(*team)->Launch(second));
    EXPECT_NE(drawn[0], drawn[1]);
    EXPECT_EQ(ahead, literal);
  }
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], qwenserve::kOwnEngine) == 0) {
    return qwenserve::OwnEngine(argv[2]);
  }
  if (qwenserve::IsFollowerCommand(argc, argv)) return qwenserve::RunFollower(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
