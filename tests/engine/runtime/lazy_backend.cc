#include "tests/engine/runtime/lazy_backend.h"

#include <bit>
#include <mutex>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/parallel/group_communicator.h"
#include "engine/parallel/rank_group.h"
#include "gtest/gtest.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

template <typename... Args>
std::string Describe(const char* op, const Args&... args) {
  std::string text = op;
  const auto append = [&text](const auto& value) {
    if constexpr (std::is_pointer_v<std::decay_t<decltype(value)>>) {
      absl::StrAppend(&text, " ", reinterpret_cast<uintptr_t>(value));
    } else {
      absl::StrAppend(&text, " ", value);
    }
  };
  (append(args), ...);
  return text;
}

std::string Describe(const AttentionBatch& b) {
  return Describe("batch", b.num_rows, b.num_sequences, b.max_sequence_rows, b.positions,
                  b.sequences, b.row_starts, b.block_tables, b.max_blocks, b.rope_tables,
                  b.query_scales);
}

// A row with copies of what it points to.
struct OwnedRow {
  explicit OwnedRow(const SampleRow& from)
      : row(from),
        context(from.context_ids.begin(), from.context_ids.end()),
        bias(from.logit_bias.begin(), from.logit_bias.end()),
        banned(from.banned_ids.begin(), from.banned_ids.end()) {
    QS_CHECK(from.allowed_ids == nullptr);
  }
  SampleRow Get() const {
    SampleRow result = row;
    result.context_ids = context;
    result.logit_bias = bias;
    result.banned_ids = banned;
    return result;
  }

  SampleRow row;
  std::vector<int32_t> context;
  std::vector<LogitBias> bias;
  std::vector<int32_t> banned;
};

class LazyCommunicator final : public Communicator {
 public:
  LazyCommunicator(LazyBackend* backend, std::unique_ptr<Communicator> host)
      : backend_(backend), host_(std::move(host)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  absl::Status AllReduceSum(float* data, int64_t count) override {
    backend_->Issue(Describe("sum", data, count),
                    [=, this] { QS_CHECK(host_->AllReduceSum(data, count).ok()); });
    return absl::OkStatus();
  }
  absl::Status AllGather(const float* mine, int64_t rows, int64_t width, float* all) override {
    backend_->Issue(Describe("gather of ranks", mine, rows, width, all),
                    [=, this] { QS_CHECK(host_->AllGather(mine, rows, width, all).ok()); });
    return absl::OkStatus();
  }
  bool replayable() const override { return true; }
  absl::Status Health() override { return host_->Health(); }
  void Abort() override { host_->Abort(); }

 private:
  LazyBackend* const backend_;
  const std::unique_ptr<Communicator> host_;
};

// The group's memory by its identity.
std::shared_ptr<RankGroup> SharedGroup(const DeviceGroup& group) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<RankGroup>> groups;
  std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<RankGroup> memory = groups[group.id].lock();
  if (memory == nullptr) {
    memory = *RankGroup::Create(group.size);
    groups[group.id] = memory;
  }
  return memory;
}

}  // namespace

absl::StatusOr<std::string> LazyBackend::NewDeviceGroup(const std::string& library) {
  static std::atomic<int> last{0};
  return absl::StrCat(++last);
}

absl::StatusOr<std::unique_ptr<Communicator>> LazyBackend::JoinDeviceGroup(
    const DeviceGroup& group) {
  std::unique_ptr<Communicator> host =
      MakeGroupCommunicator(SharedGroup(group), group.rank, group.timeout);
  return std::make_unique<LazyCommunicator>(this, std::move(host));
}

void LazyBackend::Issue(std::string name, std::function<void()> run) {
  if (recording_ != nullptr) {
    recording_->push_back({std::move(name), std::move(run)});
    return;
  }
  ++issued_;
  queue_.push_back(std::move(run));
}

int64_t LazyBackend::PaddedRows(int64_t rows) const {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
}

absl::Status LazyBackend::Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) {
  QS_CHECK(recording_ == nullptr);
  std::vector<Op> ops;
  recording_ = &ops;
  const absl::Status status = issue();
  recording_ = nullptr;
  if (!status.ok()) return status;
  const auto [it, is_new] = recorded_.emplace(key, ops);
  ++(is_new ? counts_.records : counts_.repeats);
  QS_CHECK(it->second.size() == ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    EXPECT_EQ(it->second[i].name, ops[i].name) << "key " << key;
    Issue(it->second[i].name, it->second[i].run);
  }
  return absl::OkStatus();
}

absl::Status LazyBackend::Wait(uint64_t mark) {
  QS_CHECK(mark <= issued_);
  ++(mark == issued_ ? counts_.waits_for_all : counts_.waits_for_some);
  while (issued_ - queue_.size() < mark) {
    queue_.front()();
    queue_.pop_front();
  }
  return device().Sync();
}

absl::Status LazyBackend::Sync() {
  for (; !queue_.empty(); queue_.pop_front()) queue_.front()();
  return device().Sync();
}

void LazyBackend::CopyToDevice(const void* host, size_t bytes, void* device) {
  ++counts_.copies_to_device;
  const auto* begin = static_cast<const char*>(host);
  Issue("copy from the host", [this, device, copy = std::vector<char>(begin, begin + bytes)] {
    WrappingBackend::CopyToDevice(copy.data(), copy.size(), device);
  });
  QS_CHECK(recording_ == nullptr);
}

void LazyBackend::CopyToHost(const void* device, size_t bytes, void* host) {
  QS_CHECK(Sync().ok());
  WrappingBackend::CopyToHost(device, bytes, host);
}

void LazyBackend::TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) {
  Issue(Describe("take drawn", drawn, rows, ids),
        [=, this] { device().TakeDrawn(drawn, rows, ids); });
}

void LazyBackend::Embed(const int32_t* ids, int64_t rows, const LinearWeight& table,
                        int64_t first_id, float* out) {
  Issue(Describe("embed", ids, rows, &table, first_id, out),
        [=, this, &table] { device().Embed(ids, rows, table, first_id, out); });
}

void LazyBackend::RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight,
                          float epsilon, void* out) {
  Issue(Describe("norm", x, rows, width, weight, epsilon, out),
        [=, this] { device().RmsNorm(x, rows, width, weight, epsilon, out); });
}

void LazyBackend::AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual,
                             const float* weight, float epsilon, void* out) {
  Issue(Describe("add and norm", x, rows, width, residual, weight, epsilon, out),
        [=, this] { device().AddRmsNorm(x, rows, width, residual, weight, epsilon, out); });
}

void LazyBackend::Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
                         float* out) {
  Issue(Describe("linear", x, rows, &weight, bias, out),
        [=, this, &weight] { device().Linear(x, rows, weight, bias, out); });
}

void LazyBackend::NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads,
                                  const float* q_norm, const float* k_norm, float epsilon,
                                  absl::Span<const RopeTable> rope, float* qkv, const KvLayer& kv) {
  Issue(absl::StrCat(Describe("store", q_norm, k_norm, epsilon, rope.data(), qkv, kv.data), " ",
                     Describe(batch)),
        [=, this] {
          device().NormRopeStoreKv(batch, heads, q_norm, k_norm, epsilon, rope, qkv, kv);
        });
}

void LazyBackend::PagedAttention(const AttentionBatch& batch, const HeadLayout& heads,
                                 const float* qkv, const KvLayer& kv, void* out) {
  Issue(absl::StrCat(Describe("attention", qkv, kv.data, out), " ", Describe(batch)), [=, this] {
    for (int64_t row = 0; row < batch.num_rows; ++row) {
      counts_.filling += batch.positions[row] < 0 ? 1 : 0;
    }
    device().PagedAttention(batch, heads, qkv, kv, out);
  });
}

void LazyBackend::SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) {
  Issue(Describe("silu", gate_up, rows, width, out),
        [=, this] { device().SiluMul(gate_up, rows, width, out); });
}

void LazyBackend::GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                             void* out) {
  Issue(Describe("gather", x, width, rows, num_rows, out),
        [=, this] { device().GatherRows(x, width, rows, num_rows, out); });
}

void LazyBackend::Sample(float* logits, int64_t stride, int64_t vocab_size,
                         absl::Span<const SampleRow> rows, int32_t* drawn, SampledToken* tokens) {
  QS_CHECK(recording_ == nullptr);
  ++counts_.samples;
  std::vector<OwnedRow> owned(rows.begin(), rows.end());
  for (const OwnedRow& row : owned) {
    const int32_t* last_id = row.row.last_id;
    EXPECT_TRUE(reads_last_id_ || last_id == nullptr);
    // Rows are drawn in any order.
    EXPECT_TRUE(last_id == nullptr || last_id < drawn || last_id >= drawn + rows.size());
  }
  Issue("sample", [=, this, owned = std::move(owned)] {
    std::vector<SampleRow> copies;
    for (const OwnedRow& row : owned) copies.push_back(row.Get());
    device().Sample(logits, stride, vocab_size, copies, drawn, tokens);
  });
}

}  // namespace qwenserve
