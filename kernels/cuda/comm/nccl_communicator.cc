#include "kernels/cuda/comm/nccl_communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/comm/nccl_scratch.h"
#include "kernels/cuda/comm/nccl_session.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

constexpr int64_t kLongestPiece = int64_t{8} << 20;  // floats; longer pieces are not faster
constexpr int64_t kRowsAtOnce = 128;                 // collectives that NCCL is given together

LaunchShape ShapeFor(int64_t floats) {
  LaunchShape shape;
  shape.grid_x = static_cast<uint32_t>(
      std::clamp<int64_t>((floats + kCommBlockFloats - 1) / kCommBlockFloats, 1, kCommMostBlocks));
  return shape;
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(GpuDevice& device, const CommKernels& kernels,
                   std::unique_ptr<NcclSession> session, std::unique_ptr<NcclScratch> scratch)
      : device_(device),
        kernels_(kernels),
        session_(std::move(session)),
        scratch_(std::move(scratch)),
        rank_(session_->group().rank),
        size_(session_->group().size) {}

  ~NcclCommunicator() override {
    scratch_->CloseWindow();
    session_->Leave();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool replayable() const override { return true; }
  absl::Status Health() override { return session_->Health(); }
  void Abort() override { session_->Abort(); }

  absl::Status AllReduceSum(float* data, int64_t count) override {
    QS_CHECK(count >= 0);
    for (int64_t begin = 0; begin < count;) {
      const int64_t n = std::min(count - begin, LongestPiece());
      if (absl::Status status = SumPiece(data + begin, n); !status.ok()) return status;
      begin += n;
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(const float* mine, int64_t rows, int64_t width, float* all) override {
    QS_CHECK(rows >= 0 && width >= 0);
    const int64_t count = rows * width;
    if (count == 0) return session_->Health();
    if (rows == 1) return Gather(mine, count, all);
    if (count * size_ > scratch_->floats()) return GatherByRows(mine, rows, width, all);
    if (absl::Status status = Gather(mine, count, scratch_->data()); !status.ok()) return status;
    const InterleaveRowsArgs args{scratch_->data(), all, rows, width, size_};
    device_.Launch(kernels_.interleave_rows, ShapeFor(count * size_), args);
    return absl::OkStatus();
  }

  // Every collective once, over memory of its own.
  absl::Status WarmUp() {
    absl::StatusOr<Buffer> buffer =
        AllocateGpuBuffer(device_, (kSumSlicesFrom + 4) * sizeof(float) * (1 + size_));
    if (!buffer.ok()) return buffer.status();
    float* mine = buffer->as<float>();
    float* all = mine + kSumSlicesFrom + 4;
    absl::Status status = AllReduceSum(mine, 4);
    if (status.ok()) status = AllReduceSum(mine, kSumSlicesFrom);
    if (status.ok()) status = AllReduceSum(mine, kSumSlicesFrom + 1);
    if (status.ok()) status = AllGather(mine, 2, 2, all);
    if (status.ok()) status = AllGather(mine, 1, 4, all);
    if (status.ok()) status = WaitForDevice(device_, *session_);
    return status;
  }

 private:
  NcclStream Stream() const { return device_.native_stream(GpuStream::kCompute); }

  int64_t LongestPiece() const {
    // Scratch memory holds at least what kWhole ever needs, and kSlices needs a little more than
    // the piece itself.
    return std::max(kSumSlicesFrom, scratch_->floats() - 4 * size_);
  }

  absl::Status SumPiece(float* data, int64_t count) {
    const SumPlan plan = PlanSum(size_, count);
    QS_CHECK(plan.scratch <= scratch_->floats());
    switch (plan.way) {
      case SumWay::kLibrary:
        return session_->Call("a sum", [&](NcclComm comm) {
          return session_->api().AllReduce(data, data, count, kNcclFloat32, kNcclSum, comm,
                                           Stream());
        });
      case SumWay::kWhole:
        return SumWhole(data, count);
      case SumWay::kSlices:
        return SumBySlices(data, count, plan.slice);
    }
    return absl::OkStatus();
  }

  absl::Status SumWhole(float* data, int64_t count) {
    const float* mine = data;
    if (scratch_->symmetric()) {
      // NCCL is quicker where both ends of a copy are in its windows.
      float* place = scratch_->data() + rank_ * count;
      const InterleaveRowsArgs copy{data, place, 1, count, 1};
      device_.Launch(kernels_.interleave_rows, ShapeFor(count), copy);
      mine = place;
    }
    if (absl::Status status = Gather(mine, count, scratch_->data()); !status.ok()) return status;
    LaunchSum(data, count, count, data);
    return absl::OkStatus();
  }

  absl::Status SumBySlices(float* data, int64_t count, int64_t slice) {
    const auto begin = [&](int rank) { return std::min(count, rank * slice); };
    const auto length = [&](int rank) { return begin(rank + 1) - begin(rank); };
    float* mine = data + begin(rank_);
    absl::Status status = Exchange("the parts of a sum", [&](int peer, NcclComm comm) {
      const int sent = SendTo(peer, data + begin(peer), length(peer), comm);
      const int received = ReceiveFrom(peer, scratch_->data() + peer * slice, length(rank_), comm);
      return sent != kNcclSuccess ? sent : received;
    });
    if (!status.ok()) return status;
    LaunchSum(mine, slice, length(rank_), mine);
    if (count == slice * size_) return Gather(mine, slice, data);
    return Exchange("the slices of a sum", [&](int peer, NcclComm comm) {
      const int sent = SendTo(peer, mine, length(rank_), comm);
      const int received = ReceiveFrom(peer, data + begin(peer), length(peer), comm);
      return sent != kNcclSuccess ? sent : received;
    });
  }

  void LaunchSum(const float* own, int64_t stride, int64_t count, float* out) {
    if (count == 0) return;
    const SumRanksArgs args{scratch_->data(), own, out, stride, count, rank_, size_};
    device_.Launch(kernels_.sum_ranks, ShapeFor(count), args);
  }

  absl::Status Gather(const float* mine, int64_t count, float* all) {
    return session_->Call("a gather", [&](NcclComm comm) {
      return session_->api().AllGather(mine, all, count, kNcclFloat32, comm, Stream());
    });
  }

  // Row by row no memory is needed between.
  absl::Status GatherByRows(const float* mine, int64_t rows, int64_t width, float* all) {
    for (int64_t begin = 0; begin < rows; begin += kRowsAtOnce) {
      const int64_t end = std::min(rows, begin + kRowsAtOnce);
      absl::Status status = Group("a gather", [&](NcclComm comm) {
        for (int64_t row = begin; row < end; ++row) {
          const int result = session_->api().AllGather(
              mine + row * width, all + row * width * size_, width, kNcclFloat32, comm, Stream());
          if (result != kNcclSuccess) return result;
        }
        return kNcclSuccess;
      });
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // One group of calls; its end is what starts them, also after an error.
  template <typename Calls>
  absl::Status Group(const char* what, Calls calls) {
    return session_->Call(what, [&](NcclComm comm) {
      const int started = session_->api().GroupStart();
      if (started != kNcclSuccess) return started;
      const int called = calls(comm);
      const int ended = session_->api().GroupEnd();
      return called != kNcclSuccess && called != kNcclInProgress ? called : ended;
    });
  }

  template <typename WithPeer>
  absl::Status Exchange(const char* what, WithPeer with_peer) {
    return Group(what, [&](NcclComm comm) {
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        const int result = with_peer(peer, comm);
        if (result != kNcclSuccess) return result;
      }
      return kNcclSuccess;
    });
  }

  int SendTo(int peer, const float* from, int64_t count, NcclComm comm) {
    if (count == 0) return kNcclSuccess;
    return session_->api().Send(from, count, kNcclFloat32, peer, comm, Stream());
  }
  int ReceiveFrom(int peer, float* to, int64_t count, NcclComm comm) {
    if (count == 0) return kNcclSuccess;
    return session_->api().Recv(to, count, kNcclFloat32, peer, comm, Stream());
  }

  GpuDevice& device_;
  const CommKernels kernels_;
  const std::unique_ptr<NcclSession> session_;
  const std::unique_ptr<NcclScratch> scratch_;
  const int rank_;
  const int size_;
};

struct GroupId {
  NcclUniqueId unique;
  int version = 0;
};

absl::StatusOr<GroupId> ParseGroupId(const std::string& text) {
  GroupId id;
  if (text.size() != sizeof(id)) {
    return absl::InvalidArgumentError(absl::StrCat("the identity of a group of GPUs has ",
                                                   sizeof(id), " bytes, not ", text.size()));
  }
  std::memcpy(&id, text.data(), sizeof(id));
  return id;
}

}  // namespace

SumPlan PlanSum(int size, int64_t count) {
  if (size <= 2) return {SumWay::kLibrary, 0, 0};
  if (count < kSumSlicesFrom) return {SumWay::kWhole, 0, count * size};
  const int64_t even = (count + size - 1) / size;
  const int64_t slice = (even + 3) / 4 * 4;  // so that four floats can be added at a time
  return {SumWay::kSlices, slice, slice * size};
}

int64_t ScratchFloats(int size, int64_t max_sum) {
  return std::max(size * kSumSlicesFrom, std::min(max_sum, kLongestPiece) + 4 * size);
}

absl::StatusOr<std::string> NewNcclGroup(const std::string& library) {
  absl::StatusOr<NcclApi> api = LoadNccl(library);
  if (!api.ok()) return api.status();
  return NewNcclGroup(*api);
}

absl::StatusOr<std::string> NewNcclGroup(const NcclApi& api) {
  GroupId id;
  int result = api.GetVersion(&id.version);
  if (result == kNcclSuccess) result = api.GetUniqueId(&id.unique);
  if (result != kNcclSuccess) {
    return absl::UnavailableError(
        absl::StrCat("NCCL cannot begin a group: ", api.GetErrorString(result),
                     "; NCCL_SOCKET_IFNAME names the network interface to use"));
  }
  return std::string(reinterpret_cast<const char*>(&id), sizeof(id));
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinNcclGroup(GpuDevice& device,
                                                            const CommKernels& kernels,
                                                            const DeviceGroup& group) {
  absl::StatusOr<NcclApi> api = LoadNccl(group.library);
  if (!api.ok()) return api.status();
  return JoinNcclGroup(*api, device, kernels, group, SteadyClock::Real());
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinNcclGroup(const NcclApi& api, GpuDevice& device,
                                                            const CommKernels& kernels,
                                                            const DeviceGroup& group,
                                                            SteadyClock& clock) {
  absl::StatusOr<GroupId> id = ParseGroupId(group.id);
  if (!id.ok()) return id.status();
  int version = 0;
  if (api.GetVersion(&version) != kNcclSuccess || version != id->version) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", group.rank, " has NCCL ", NcclVersionName(version), ", rank 0 has ",
                     NcclVersionName(id->version), ": install the same version on all nodes"));
  }
  absl::StatusOr<std::unique_ptr<NcclSession>> session =
      NcclSession::Join(api, id->unique, group, clock);
  if (!session.ok()) return session.status();
  absl::StatusOr<std::unique_ptr<NcclScratch>> scratch =
      NcclScratch::Take(device, **session, ScratchFloats(group.size, group.max_sum));
  if (!scratch.ok()) return scratch.status();
  auto communicator =
      std::make_unique<NcclCommunicator>(device, kernels, *std::move(session), *std::move(scratch));
  if (absl::Status status = communicator->WarmUp(); !status.ok()) return status;
  return communicator;
}

}  // namespace qwenserve
