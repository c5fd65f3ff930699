// What a rank takes of an emulated GPU, and what was planned.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/loader/planned_weights.h"
#include "engine/runtime/memory_plan.h"
#include "engine/runtime/rank_team.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_checkpoint.h"
#include "tests/kernels/cuda/simt_backend.h"

namespace qwenserve {
namespace {

// As simt_backend.cc makes one.
constexpr WorkspaceOptions kEmulated = {.multiprocessors = 4, .attention_bytes = int64_t{1} << 18};
constexpr size_t kTotal = 64 << 20;

// Ranks on emulated GPUs of kTotal bytes each.
struct Gpus {
  Gpus(const std::string& dir, int tp, WeightChoice weights) : devices(static_cast<size_t>(tp)) {
    for (int rank = 0; rank < tp; ++rank) {
      RankSettings settings;
      settings.model_dir = dir;
      settings.weights = weights;
      settings.tp = tp;
      settings.rank = rank;
      settings.limits = {32, 6, 512, 0};
      settings.kv_sizing = {.memory_fraction = 0.9, .most_blocks = 1 << 20, .may_shorten = true};
      settings.wrap_backend = [this, rank](std::unique_ptr<Backend>) {
        auto faults = std::make_shared<SimtFaults>();
        faults->SetTotalMemory(kTotal);
        auto backend = MakeSimtBackend(1, std::move(faults));
        EXPECT_TRUE(backend.ok()) << backend.status();
        devices[rank] = backend->get();
        return *std::move(backend);
      };
      ranks.push_back(std::move(settings));
    }
  }

  int64_t Taken(int rank) const {
    const DeviceMemory memory = *devices[rank]->memory();
    return static_cast<int64_t>(memory.total_bytes - memory.free_bytes);
  }

  std::vector<RankSettings> ranks;
  std::vector<Backend*> devices;
};

// All but the KV cache, with the emulation's fewer multiprocessors and smaller workspace.
int64_t PlannedFixed(const ModelConfig& config, const MemoryRequest& request, int rank) {
  const auto plan = PlanMemory(config, request);
  const auto fields =
      PlanWeights(config, *MakeShardPlan(config, request.tp, rank), request.weights);
  EXPECT_TRUE(plan.ok() && fields.ok());
  std::vector<PackedShape> matrices;
  for (const PlannedField& field : *fields) {
    if (!IsVector(field.field)) matrices.push_back(PackedShapeOf(field));
  }
  return (*plan)[rank].weights + (*plan)[rank].step +
         WorkspaceBytes(DeviceKind::kCuda, matrices, kEmulated);
}

void ExpectPlanned(const std::string& dir, WeightChoice weights) {
  const auto checkpoint = Checkpoint::Open(dir);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelConfig& config = (*checkpoint)->config();
  Gpus gpus(dir, 1, weights);
  MemoryRequest request = RequestOf(gpus.ranks[0]);
  request.device = DeviceKind::kCuda;
  const auto plan = PlanMemory(config, request);
  ASSERT_TRUE(plan.ok());
  const int64_t fixed = PlannedFixed(config, request, 0);

  const auto team = RankTeam::Start(
      gpus.ranks, RankMode::kThreads, "", {}, **checkpoint, [] {}, nullptr);
  ASSERT_TRUE(team.ok()) << team.status();
  const int64_t blocks = (*team)->leader().limits().num_blocks;
  EXPECT_EQ(gpus.Taken(0), fixed + blocks * plan->front().kv_block);
  // As many as the fraction allows.
  const auto allowed = static_cast<int64_t>(0.9 * kTotal);
  EXPECT_EQ(blocks, (allowed - fixed) / plan->front().kv_block);
}

TEST(GpuMemoryTest, FloatWeightsAsPlannedWhateverTheyAreRoundedTo) {
  TinyModel model;
  model.ffn_size = 160;
  model.vocab_size = 331;
  const std::string dir = WriteTinyCheckpoint("gpu_memory", model);
  for (const WeightChoice weights :
       {WeightChoice::kAuto, WeightChoice::kInt8, WeightChoice::kInt4}) {
    SCOPED_TRACE(WeightChoiceName(weights));
    ExpectPlanned(dir, weights);
  }
  model.architecture = "QWenLMHeadModel";
  model.num_kv_heads = model.num_query_heads;
  ExpectPlanned(WriteTinyCheckpoint("gpu_memory_qwen1", model), WeightChoice::kAuto);
}

TEST(GpuMemoryTest, QuantisedCheckpointsAsPlanned) {
  for (const QuantizedStyle& style :
       {QuantizedStyle{.bits = 4, .group_size = 32},
        QuantizedStyle{.bits = 8, .group_size = 64, .symmetric = false},
        QuantizedStyle{.bits = 4, .group_size = 32, .act_order = true}}) {
    ExpectPlanned(WriteTinyQuantized("gpu_memory_quantised", TinyModel(), style),
                  WeightChoice::kAuto);
  }
}

TEST(GpuMemoryTest, EveryRankAsPlanned) {
  TinyModel model;
  model.ffn_size = 192;
  model.vocab_size = 331;
  const std::string dir = WriteTinyCheckpoint("gpu_memory_ranks", model);
  const auto checkpoint = Checkpoint::Open(dir);
  ASSERT_TRUE(checkpoint.ok());
  Gpus gpus(dir, 2, WeightChoice::kInt4);
  for (RankSettings& rank : gpus.ranks) rank.limits.num_blocks = 20;
  MemoryRequest request = RequestOf(gpus.ranks[0]);
  request.device = DeviceKind::kCuda;
  const auto plan = PlanMemory((*checkpoint)->config(), request);
  ASSERT_TRUE(plan.ok());
  const auto team = RankTeam::Start(
      gpus.ranks, RankMode::kThreads, "", {}, **checkpoint, [] {}, nullptr);
  ASSERT_TRUE(team.ok()) << team.status();
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(gpus.Taken(rank),
              PlannedFixed((*checkpoint)->config(), request, rank) + 20 * (*plan)[rank].kv_block);
  }
}

}  // namespace
}  // namespace qwenserve
