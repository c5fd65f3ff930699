#include "tests/parity/tiny_replica.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>

#include "engine/base/status_macros.h"
#include "engine/loader/weight_loader.h"
#include "engine/model/qwen.h"
#include "engine/model/rope.h"
#include "engine/parallel/group_communicator.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

// One rank with everything that a forward pass needs, and the arrays of one step.
class Rank {
 public:
  absl::Status Init(const Checkpoint& checkpoint, const std::vector<ForcedSequence>& sequences,
                    const RunOptions& options, Communicator* communicator);
  std::vector<std::string> KvBytes() const {
    std::vector<std::string> bytes;
    for (const Buffer& layer : kv_buffers_) {
      std::string copy(layer.bytes(), '\0');
      backend_->CopyToHost(layer.data(), layer.bytes(), copy.data());
      bytes.push_back(std::move(copy));
    }
    return bytes;
  }
  absl::Status RunStep(const std::vector<ForcedSequence>& sequences, const Step& step,
                       Logits& logits);

 private:
  template <typename T>
  const T* Upload(const std::vector<T>& values) {
    uploads_.push_back(*backend_->Allocate(std::max<size_t>(1, values.size()) * sizeof(T)));
    backend_->CopyToDevice(values.data(), values.size() * sizeof(T), uploads_.back().data());
    return uploads_.back().as<T>();
  }

  std::unique_ptr<Backend> backend_;
  ModelConfig config_;
  ShardPlan shard_;
  ModelWeights weights_;
  Activations activations_;
  std::vector<Buffer> kv_buffers_;
  std::vector<KvLayer> kv_;
  std::optional<RopeTables> rope_;
  Communicator* communicator_ = nullptr;
  int64_t max_blocks_ = 0;
  std::vector<Buffer> uploads_;  // of the step
};

absl::Status Rank::Init(const Checkpoint& checkpoint, const std::vector<ForcedSequence>& sequences,
                        const RunOptions& options, Communicator* communicator) {
  backend_ = options.make_backend();
  communicator_ = communicator;
  config_ = checkpoint.config();
  if (options.change_config) options.change_config(config_);
  QS_ASSIGN_OR_RETURN(shard_, MakeShardPlan(config_, options.tp, communicator->rank()));
  QS_ASSIGN_OR_RETURN(weights_,
                      LoadWeights(checkpoint, shard_, options.weights, *backend_, nullptr));
  int64_t rows = 0, longest = 0;
  for (const ForcedSequence& sequence : sequences) {
    rows += static_cast<int64_t>(sequence.ids.size());
    longest = std::max(longest, static_cast<int64_t>(sequence.ids.size()));
  }
  QS_ASSIGN_OR_RETURN(activations_, MakeActivations(config_, shard_, rows, rows, *backend_));
  max_blocks_ = (longest + kKvBlockSize - 1) / kKvBlockSize;
  const int64_t blocks = max_blocks_ * static_cast<int64_t>(sequences.size());
  const size_t block_bytes = backend_->KvBytesPerBlock(shard_.Heads(config_), options.kv_format);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    QS_ASSIGN_OR_RETURN(Buffer buffer, backend_->Allocate(blocks * block_bytes));
    kv_.push_back({buffer.data(), blocks, options.kv_format});
    kv_buffers_.push_back(std::move(buffer));
  }
  QS_ASSIGN_OR_RETURN(rope_, RopeTables::Create(config_, longest, *backend_));
  return absl::OkStatus();
}

absl::Status Rank::RunStep(const std::vector<ForcedSequence>& sequences, const Step& step,
                           Logits& logits) {
  std::vector<int32_t> ids, positions, owners, starts = {0}, tables, rope_tables, rows;
  std::vector<float> scales;
  for (const Segment& segment : step) {
    const ForcedSequence& sequence = sequences[segment.sequence];
    const int32_t rope_table = rope_->IndexFor(sequence.prompt_tokens);
    for (int64_t p = segment.first; p < segment.first + segment.count; ++p) {
      rows.push_back(static_cast<int32_t>(ids.size()));
      ids.push_back(sequence.ids[p]);
      positions.push_back(static_cast<int32_t>(p));
      owners.push_back(static_cast<int32_t>(starts.size() - 1));
      rope_tables.push_back(rope_table);
      scales.push_back(LognScale(config_, p));
    }
    starts.push_back(static_cast<int32_t>(ids.size()));
    // A sequence's blocks lie apart and backwards, so that only the table finds them.
    for (int64_t block = 0; block < max_blocks_; ++block) {
      tables.push_back(
          static_cast<int32_t>((max_blocks_ - 1 - block) * sequences.size() + segment.sequence));
    }
  }
  uploads_.clear();
  ForwardBatch batch;
  batch.attention.num_rows = static_cast<int64_t>(ids.size());
  batch.attention.num_sequences = static_cast<int64_t>(step.size());
  batch.attention.positions = Upload(positions);
  batch.attention.sequences = Upload(owners);
  batch.attention.row_starts = Upload(starts);
  batch.attention.block_tables = Upload(tables);
  batch.attention.max_blocks = max_blocks_;
  batch.attention.rope_tables = Upload(rope_tables);
  batch.attention.query_scales = Upload(scales);
  batch.ids = Upload(ids);
  batch.logit_rows = Upload(rows);
  batch.num_logit_rows = static_cast<int64_t>(rows.size());
  const ModelState state = {&config_, &shard_,         &weights_,      &activations_,
                            kv_,      rope_->tables(), backend_.get(), communicator_};
  QS_RETURN_IF_ERROR(Forward(state, batch));
  ProjectLogits(state, batch.logit_rows, batch.num_logit_rows);
  QS_RETURN_IF_ERROR(GatherLogits(state, 0, batch.num_logit_rows, 0));
  QS_RETURN_IF_ERROR(backend_->Sync());
  const LogitsView view = LogitsOf(state);
  int64_t row = 0;
  for (const Segment& segment : step) {
    for (int64_t p = segment.first; p < segment.first + segment.count; ++p, ++row) {
      std::vector<float>& out = logits[segment.sequence][p];
      out.resize(config_.vocab_size);
      backend_->CopyToHost(view.data + row * view.stride, out.size() * sizeof(float), out.data());
    }
  }
  return absl::OkStatus();
}

bool SameBits(const Logits& a, const Logits& b) {
  for (size_t s = 0; s < a.size(); ++s) {
    for (size_t p = 0; p < a[s].size(); ++p) {
      if (a[s][p].size() != b[s][p].size() ||
          std::memcmp(a[s][p].data(), b[s][p].data(), a[s][p].size() * sizeof(float)) != 0) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

std::vector<Step> OneShot(const std::vector<ForcedSequence>& sequences) {
  Step step;
  for (size_t i = 0; i < sequences.size(); ++i) {
    step.push_back({i, 0, static_cast<int64_t>(sequences[i].ids.size())});
  }
  return {step};
}

std::vector<Step> Chunked(const std::vector<ForcedSequence>& sequences, int64_t chunk) {
  std::vector<Step> steps;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto length = static_cast<int64_t>(sequences[i].ids.size());
    for (int64_t first = 0; first < length; first += chunk) {
      steps.push_back({{i, first, std::min(chunk, length - first)}});
    }
  }
  return steps;
}

Logits RunSteps(const std::string& model_dir, const std::vector<ForcedSequence>& sequences,
                const std::vector<Step>& steps, const RunOptions& options) {
  auto checkpoint = Checkpoint::Open(model_dir);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto group = RankGroup::Create(options.tp);
  EXPECT_TRUE(group.ok()) << group.status();
  if (!checkpoint.ok() || !group.ok()) return {};
  Logits empty;
  for (const ForcedSequence& sequence : sequences) empty.emplace_back(sequence.ids.size());
  std::vector<Logits> by_rank(options.tp, empty);
  std::vector<absl::Status> status(options.tp);
  const auto run = [&](int r) -> absl::Status {
    auto communicator = MakeGroupCommunicator(*group, r, absl::Seconds(60));
    Rank rank;
    QS_RETURN_IF_ERROR(rank.Init(**checkpoint, sequences, options, communicator.get()));
    for (const Step& step : steps) QS_RETURN_IF_ERROR(rank.RunStep(sequences, step, by_rank[r]));
    if (r == 0 && options.kv_bytes != nullptr) *options.kv_bytes = rank.KvBytes();
    return absl::OkStatus();
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < options.tp; ++r) {
    threads.emplace_back([&, r] {
      status[r] = run(r);
      if (!status[r].ok()) (*group)->Abort(std::string(status[r].message()));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int r = 0; r < options.tp; ++r) {
    EXPECT_TRUE(status[r].ok()) << status[r];
    EXPECT_TRUE(SameBits(by_rank[r], by_rank[0])) << "rank " << r << " has other logits";
  }
  return by_rank[0];
}

}  // namespace qwenserve
