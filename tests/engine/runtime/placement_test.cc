#include "engine/runtime/placement.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PlacementTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string dir = WriteTinyCheckpoint("placement", TinyModel());
    auto checkpoint = Checkpoint::Open(dir);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    options_.model_dir = dir;
    options_.device = "cpu";
    cpu_.allowed = {4, 5, 6, 7, 9};
    cpu_.machine = 5;
    memory_ = {int64_t{8} << 30, "a test"};
  }

  absl::StatusOr<Placement> Choose() {
    return ChoosePlacement(options_, *checkpoint_, cpu_, memory_);
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  EngineOptions options_;
  CpuLimits cpu_;
  MemoryLimits memory_;
};

TEST_F(PlacementTest, SplitsCoresAndPinsOnlyInsideAShare) {
  options_.tp = 2;
  auto placement = Choose();
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->ranks[0].num_threads, 3);
  EXPECT_EQ(placement->ranks[1].num_threads, 2);
  EXPECT_THAT(placement->ranks[0].cpus, IsEmpty());

  cpu_.machine = 16;  // these five were chosen for us
  placement = Choose();
  EXPECT_THAT(placement->ranks[0].cpus, ElementsAre(4, 5, 6));
  EXPECT_THAT(placement->ranks[1].cpus, ElementsAre(7, 9));

  options_.num_threads = 4;  // which four is the kernel's choice
  placement = Choose();
  EXPECT_EQ(placement->ranks[0].num_threads, 2);
  EXPECT_THAT(placement->ranks[0].cpus, IsEmpty());

  options_.num_threads = 8;  // more than there are
  placement = Choose();
  EXPECT_EQ(placement->ranks[0].num_threads, 4);
  EXPECT_THAT(placement->ranks[0].cpus, IsEmpty());

  options_.num_threads = 0;
  cpu_.quota = 1;  // one core for two ranks
  placement = Choose();
  EXPECT_EQ(placement->ranks[0].num_threads, 1);
  EXPECT_EQ(placement->ranks[1].num_threads, 1);
  EXPECT_THAT(placement->ranks[0].cpus, IsEmpty());
}

TEST_F(PlacementTest, TakesNoMoreForTheKvCacheThanCanBeUsed) {
  const auto placement = Choose();
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->max_model_len, 512);
  EXPECT_EQ(placement->ranks[0].limits.num_blocks, 64 * 512 / 16);
  EXPECT_THAT(absl::StrJoin(placement->reasons, "\n"), HasSubstr("what 64 sequences of 512"));
}

TEST_F(PlacementTest, TellsTheInstructionSet) {
  const auto placement = Choose();
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_THAT(placement->reasons, testing::Contains("instruction set: " + *CpuIsaName("auto")));
}

TEST_F(PlacementTest, TakesHalfOfTheMemoryThatIsLeft) {
  options_.max_running = 4096;
  options_.max_batch_tokens = 4096;
  int64_t weights = 0;
  for (const TensorRef& tensor : checkpoint_->tensors()) weights += tensor.bytes;
  memory_.available = weights + (int64_t{256} << 20) + 2000000;
  const auto placement = Choose();
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_LE(placement->kv_bytes, 1000000);
  EXPECT_GT(placement->kv_bytes + placement->kv_block_bytes, 1000000);
}

TEST_F(PlacementTest, ShortensTheContextOnlyWhenItWasNotAskedFor) {
  options_.kv_cache_bytes = Choose()->kv_block_bytes * 10 + 5;
  auto placement = Choose();
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->max_model_len, 160);
  EXPECT_THAT(absl::StrJoin(placement->reasons, "\n"), HasSubstr("160 instead of"));
  options_.max_model_len = 161;
  EXPECT_EQ(Choose().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(Choose().status().message()), HasSubstr("161"));
  options_.max_model_len = 160;
  EXPECT_TRUE(Choose().ok());
}

TEST_F(PlacementTest, SaysWhenTheKvCacheIsToldToBeLargerThanTheMemory) {
  options_.kv_cache_bytes = int64_t{9} << 30;
  const auto placement = Choose();
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_THAT(absl::StrJoin(placement->reasons, "\n"), HasSubstr("(as told, of "));
}

TEST_F(PlacementTest, PlansWithItsPartOfTheMemory) {
  options_.max_running = 4096;
  options_.max_batch_tokens = 4096;
  memory_.available = int64_t{300} << 20;
  const auto alone = Choose();
  ASSERT_TRUE(alone.ok()) << alone.status();
  memory_.available = int64_t{64} << 30;
  options_.memory_limit = int64_t{300} << 20;
  const auto limited = Choose();
  ASSERT_TRUE(limited.ok()) << limited.status();
  EXPECT_EQ(limited->kv_bytes, alone->kv_bytes);
  EXPECT_THAT(absl::StrJoin(limited->reasons, "\n"), HasSubstr("of 314572800, memory-limit"));
  // More than is free is no promise that it is there.
  memory_.available = int64_t{300} << 20;
  options_.memory_limit = int64_t{64} << 30;
  EXPECT_EQ(Choose()->kv_bytes, alone->kv_bytes);
  options_.memory_limit = -1;
  EXPECT_EQ(Choose().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PlacementTest, NoMemoryAtAllIsAnError) {
  memory_.available = 1000;
  EXPECT_EQ(Choose().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(PlacementTest, RefusesImpossibleOptions) {
  const auto refused = [&](auto spoil, const char* word) {
    const EngineOptions good = options_;
    spoil(options_);
    const absl::Status status = Choose().status();
    options_ = good;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  };
  refused([](EngineOptions& o) { o.max_batch_tokens = -1; }, "max_batch_tokens");
  refused([](EngineOptions& o) { o.max_running = -1; }, "max_running");
  refused([](EngineOptions& o) { o.max_waiting = 0; }, "max_waiting");
  refused([](EngineOptions& o) { o.max_step = -absl::Milliseconds(1); }, "max_step");
  refused([](EngineOptions& o) { o.max_step = absl::InfiniteDuration(); }, "max_step");
  refused([](EngineOptions& o) { o.step_timeout = absl::ZeroDuration(); }, "step_timeout");
  refused([](EngineOptions& o) { o.max_model_len = 513; }, "513");
  refused([](EngineOptions& o) { o.max_batch_tokens = 1 << 30; }, "max_batch_tokens");
  refused([](EngineOptions& o) { o.num_threads = 1 << 20; }, "num_threads");
  refused([](EngineOptions& o) { o.gpu_mode = "quick"; }, "quick");
  refused([](EngineOptions& o) { o.tp = 0; }, "parallelism of 0");
  refused([](EngineOptions& o) { o.tp = 2, o.rank_mode = RankMode::kProcesses; }, "rank_binary");
}

TEST_F(PlacementTest, SettingsTravelAsJson) {
  options_.tp = 2;
  cpu_.machine = 16;
  options_.kv_format = KvFormat::kF32;
  options_.gpu_mode = "fast";
  options_.run_ahead = true;
  const auto placement = Choose();
  ASSERT_TRUE(placement.ok()) << placement.status();
  const RankSettings& sent = placement->ranks[1];
  const auto got = SettingsFromJson(SettingsToJson(sent));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->model_dir, sent.model_dir);
  EXPECT_EQ(got->device, sent.device);
  EXPECT_EQ(got->gpu_mode, "fast");
  EXPECT_EQ(got->tp, 2);
  EXPECT_EQ(got->rank, 1);
  EXPECT_EQ(got->num_threads, sent.num_threads);
  EXPECT_EQ(got->cpus, sent.cpus);
  EXPECT_EQ(got->kv_format, KvFormat::kF32);
  EXPECT_EQ(got->limits.max_rows, sent.limits.max_rows);
  EXPECT_EQ(got->limits.max_sequences, sent.limits.max_sequences);
  EXPECT_EQ(got->limits.max_model_len, sent.limits.max_model_len);
  EXPECT_EQ(got->limits.num_blocks, sent.limits.num_blocks);
  EXPECT_EQ(got->step_timeout, sent.step_timeout);
  EXPECT_TRUE(got->run_ahead);
  // A CPU works in the call, and would only answer later.
  options_.run_ahead = std::nullopt;
  const auto by_default = Choose();
  ASSERT_TRUE(by_default.ok()) << by_default.status();
  EXPECT_FALSE(by_default->ranks[1].run_ahead);
  EXPECT_FALSE(SettingsFromJson("{}").ok());
  EXPECT_FALSE(SettingsFromJson("[1]").ok());
}

TEST_F(PlacementTest, EveryKvFormatReachesTheRanksAndUnknownOnesAreNamed) {
  for (const KvFormat format : kAllKvFormats) {
    RankSettings settings;
    settings.limits = {1, 1, 1, 1};
    settings.kv_format = format;
    const auto got = SettingsFromJson(SettingsToJson(settings));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->kv_format, format);
    std::string json = SettingsToJson(settings);
    const std::string name = absl::StrCat("\"", KvFormatName(format), "\"");
    json.replace(json.find(name), name.size(), "\"int3\"");
    const absl::Status status = SettingsFromJson(json).status();
    EXPECT_NE(status.message().find("int3"), absl::string_view::npos) << status;
  }
}

TEST_F(PlacementTest, Int8TakesHalfTheMemoryOfBf16AndScales) {
  options_.kv_cache_bytes = 64 << 10;
  options_.max_model_len = 16;
  std::map<KvFormat, int64_t> bytes;
  for (const KvFormat format : kAllKvFormats) {
    options_.kv_format = format;
    const auto placement = Choose();
    ASSERT_TRUE(placement.ok()) << placement.status();
    bytes[format] = placement->kv_block_bytes;
  }
  EXPECT_EQ(bytes[KvFormat::kF32], 2 * bytes[KvFormat::kBf16]);
  const int64_t codes = bytes[KvFormat::kBf16] / 2;
  const int64_t scales = bytes[KvFormat::kInt8] - codes;
  EXPECT_GT(scales, 0);
  EXPECT_EQ(bytes[KvFormat::kQwenInt8], codes + 2 * scales);
}

}  // namespace
}  // namespace qwenserve
