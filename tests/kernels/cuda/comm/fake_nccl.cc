#include "tests/kernels/cuda/comm/fake_nccl.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace qwenserve {
namespace {

enum class Kind { kJoin, kAllReduce, kAllGather, kSend, kRecv, kWindow, kFinalize };

struct Op {
  Kind kind = Kind::kJoin;
  const float* from = nullptr;
  float* to = nullptr;
  size_t count = 0;
  int peer = -1;
};

struct Group;

struct Comm {
  std::shared_ptr<Group> group;
  int rank = 0;
  int size = 0;
  size_t issued = 0;  // calls so far, joining included
  int polls_left = 0;
  int error = kNcclSuccess;
  bool late_error = false;  // comes after the next success
  std::atomic<bool> ended{false};
};

// The calls of all ranks: calls[n][rank] are the ops of the rank's n-th call.
struct Group {
  std::vector<std::map<int, std::vector<Op>>> calls;
};

struct World {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::shared_ptr<Group>> groups;
  std::vector<std::unique_ptr<Comm>> comms;
  std::map<int, FakeNccl::Faults> faults;
  std::map<int, int> calls;
  int version = 22809;
  int ids = 0, joins = 0, aborts = 0, destroys = 0, windows = 0;
  int hanging = 0;
  bool ending = false;
};
World* world = nullptr;

struct ThreadGroup {
  int depth = 0;
  Comm* comm = nullptr;
  std::vector<Op> ops;
};
thread_local ThreadGroup thread_group;

Comm* Living(NcclComm handle) {
  auto* comm = static_cast<Comm*>(handle);
  QS_CHECK(comm != nullptr && !comm->ended);  // used after its end
  return comm;
}

// With the lock: does what all ranks' `number`-th calls ask for.
void Execute(std::map<int, std::vector<Op>>& parts) {
  const int size = static_cast<int>(parts.size());
  for (size_t i = 0; i < parts[0].size(); ++i) {
    const Op& first = parts[0][i];
    if (first.kind == Kind::kAllReduce) {
      std::vector<float> sum(first.from, first.from + first.count);
      for (int r = 1; r < size; ++r) {
        QS_CHECK(parts[r][i].kind == first.kind && parts[r][i].count == first.count);
        for (size_t k = 0; k < sum.size(); ++k) sum[k] += parts[r][i].from[k];
      }
      for (auto& [rank, ops] : parts) std::memcpy(ops[i].to, sum.data(), sum.size() * 4);
    } else if (first.kind == Kind::kAllGather) {
      for (int r = 0; r < size; ++r) {
        QS_CHECK(parts[r][i].kind == first.kind && parts[r][i].count == first.count);
        for (auto& [rank, ops] : parts) {
          std::memmove(ops[i].to + r * first.count, parts[r][i].from, first.count * 4);
        }
      }
    }
  }
  // The n-th message from a to b meets the n-th that b wants from a.
  for (auto& [sender, ops] : parts) {
    std::map<int, size_t> next;
    for (const Op& op : ops) {
      if (op.kind != Kind::kSend) continue;
      std::vector<Op>& theirs = parts[op.peer];
      size_t& at = next[op.peer];
      while (at < theirs.size() && (theirs[at].kind != Kind::kRecv || theirs[at].peer != sender)) {
        ++at;
      }
      QS_CHECK(at < theirs.size() && theirs[at].count == op.count);
      std::memcpy(theirs[at++].to, op.from, op.count * 4);
    }
  }
}

bool Done(const Comm& comm) {
  const auto& calls = comm.group->calls;
  return calls[comm.issued - 1].size() == static_cast<size_t>(comm.size);
}

int Answer(Comm* comm) {
  if (comm->error != kNcclSuccess) return comm->error;
  if (!Done(*comm)) return kNcclInProgress;
  if (comm->polls_left > 0) {
    --comm->polls_left;
    return kNcclInProgress;
  }
  if (comm->late_error) comm->error = kNcclRemoteError;
  return kNcclSuccess;
}

// The rank's next call; `counted`: one that faults count.
int Issue(Comm* comm, std::vector<Op> ops, bool counted = true) {
  std::unique_lock<std::mutex> lock(world->mutex);
  const FakeNccl::Faults& faults = world->faults[comm->rank];
  const int number = counted ? world->calls[comm->rank]++ : -2;
  if (counted && number == faults.fail_at) return comm->error = kNcclUnhandledCudaError;
  if (counted && number == faults.block_at) {
    world->changed.wait(lock, [&] { return comm->ended.load() || world->ending; });
    return kNcclInProgress;
  }
  auto& calls = comm->group->calls;
  if (calls.size() <= comm->issued) calls.resize(comm->issued + 1);
  auto& parts = calls[comm->issued++];
  const bool hangs = counted ? faults.hang_at >= 0 && number >= faults.hang_at
                             : ops[0].kind == Kind::kJoin && faults.hang_in_join;
  if (hangs) return kNcclInProgress;
  parts[comm->rank] = std::move(ops);
  comm->polls_left = faults.polls;
  if (Done(*comm)) Execute(parts);
  comm->late_error = counted && number == faults.late_error_at;
  return Answer(comm);
}

int IssueOrCollect(NcclComm handle, Op op) {
  Comm* comm = Living(handle);
  if (thread_group.depth == 0) return Issue(comm, {op});
  thread_group.comm = comm;
  thread_group.ops.push_back(op);
  return kNcclSuccess;
}

int GetVersion(int* version) {
  *version = world->version;
  return kNcclSuccess;
}
const char* GetErrorString(int result) {
  return result == kNcclRemoteError ? "remote process exited" : "unhandled cuda error";
}
const char* GetLastError(NcclComm) { return "the fake says so"; }

int GetUniqueId(NcclUniqueId* id) {
  std::lock_guard<std::mutex> lock(world->mutex);
  *id = NcclUniqueId();
  const std::string name = "group " + std::to_string(++world->ids);
  std::memcpy(id->bytes, name.data(), name.size());
  return kNcclSuccess;
}

int CommInitRankConfig(NcclComm* out, int size, NcclUniqueId id, int rank, NcclConfig* config) {
  QS_CHECK(config->blocking == 0 && config->magic == 0xcafebeef);
  Comm* comm;
  {
    std::lock_guard<std::mutex> lock(world->mutex);
    auto& group = world->groups[id.bytes];
    if (group == nullptr) group = std::make_shared<Group>();
    world->comms.push_back(std::make_unique<Comm>());
    comm = world->comms.back().get();
    comm->group = group;
    comm->rank = rank;
    comm->size = size;
    ++world->joins;
  }
  *out = comm;
  return Issue(comm, {{.kind = Kind::kJoin}}, /*counted=*/false);
}

int CommGetAsyncError(NcclComm handle, int* result) {
  Comm* comm = Living(handle);
  std::lock_guard<std::mutex> lock(world->mutex);
  *result = Answer(comm);
  return kNcclSuccess;
}

int CommFinalize(NcclComm comm) { return Issue(Living(comm), {{.kind = Kind::kFinalize}}, false); }

int CommDestroy(NcclComm handle) {
  Comm* comm = Living(handle);
  std::lock_guard<std::mutex> lock(world->mutex);
  comm->ended = true;
  ++world->destroys;
  return kNcclSuccess;
}

int CommAbort(NcclComm handle) {
  Comm* comm = Living(handle);
  std::unique_lock<std::mutex> lock(world->mutex);
  comm->ended = true;
  ++world->aborts;
  world->changed.notify_all();
  if (!world->faults[comm->rank].hang_in_abort) return kNcclSuccess;
  ++world->hanging;
  world->changed.wait(lock, [] { return world->ending; });
  --world->hanging;
  world->changed.notify_all();
  return kNcclSuccess;
}

int GroupStart() {
  ++thread_group.depth;
  return kNcclSuccess;
}

int GroupEnd() {
  QS_CHECK(thread_group.depth == 1);
  thread_group.depth = 0;
  if (thread_group.comm == nullptr) return kNcclSuccess;
  std::vector<Op> ops = std::move(thread_group.ops);
  thread_group.ops.clear();
  return Issue(std::exchange(thread_group.comm, nullptr), std::move(ops));
}

int AllReduce(const void* from, void* to, size_t count, int type, int op, NcclComm comm,
              NcclStream) {
  QS_CHECK(type == kNcclFloat32 && op == kNcclSum);
  return IssueOrCollect(
      comm, {Kind::kAllReduce, static_cast<const float*>(from), static_cast<float*>(to), count});
}

int AllGather(const void* from, void* to, size_t count, int type, NcclComm comm, NcclStream) {
  QS_CHECK(type == kNcclFloat32);
  return IssueOrCollect(
      comm, {Kind::kAllGather, static_cast<const float*>(from), static_cast<float*>(to), count});
}

int Send(const void* from, size_t count, int type, int peer, NcclComm comm, NcclStream) {
  QS_CHECK(type == kNcclFloat32 && thread_group.depth == 1);
  return IssueOrCollect(comm, {Kind::kSend, static_cast<const float*>(from), nullptr, count, peer});
}

int Recv(void* to, size_t count, int type, int peer, NcclComm comm, NcclStream) {
  QS_CHECK(type == kNcclFloat32 && thread_group.depth == 1);
  return IssueOrCollect(comm, {Kind::kRecv, nullptr, static_cast<float*>(to), count, peer});
}

int MemAlloc(void** memory, size_t bytes) {
  // It is not told for whom: one rank without is as good as any.
  std::lock_guard<std::mutex> lock(world->mutex);
  for (auto& [rank, faults] : world->faults) {
    if (!faults.no_symmetric_memory) continue;
    faults.no_symmetric_memory = false;
    return kNcclUnhandledCudaError;
  }
  *memory = ::operator new (bytes, std::align_val_t{4096});
  return kNcclSuccess;
}

int MemFree(void* memory) {
  ::operator delete (memory, std::align_val_t{4096});
  return kNcclSuccess;
}

int CommWindowRegister(NcclComm handle, void* memory, size_t, NcclWindow* window, int flags) {
  Comm* comm = Living(handle);
  QS_CHECK(flags == kNcclWindowSymmetric);
  {
    std::lock_guard<std::mutex> lock(world->mutex);
    const bool unsupported = world->faults[comm->rank].windows_unsupported;
    *window = unsupported ? nullptr : memory;
    if (!unsupported) ++world->windows;
  }
  return Issue(comm, {{.kind = Kind::kWindow}});
}

int CommWindowDeregister(NcclComm handle, NcclWindow) {
  Comm* comm = Living(handle);
  {
    std::lock_guard<std::mutex> lock(world->mutex);
    --world->windows;
  }
  return Issue(comm, {{.kind = Kind::kWindow}});
}

}  // namespace

FakeNccl::FakeNccl() {
  QS_CHECK(world == nullptr);
  world = new World;
}

FakeNccl::~FakeNccl() {
  {
    std::unique_lock<std::mutex> lock(world->mutex);
    world->ending = true;
    world->changed.notify_all();
    world->changed.wait(lock, [] { return world->hanging == 0; });
  }
  delete std::exchange(world, nullptr);
}

NcclApi FakeNccl::api() const {
  NcclApi api = api_without_windows();
  api.MemAlloc = MemAlloc;
  api.MemFree = MemFree;
  api.CommWindowRegister = CommWindowRegister;
  api.CommWindowDeregister = CommWindowDeregister;
  return api;
}

NcclApi FakeNccl::api_without_windows() const {
  NcclApi api;
  api.GetVersion = GetVersion;
  api.GetErrorString = GetErrorString;
  api.GetLastError = GetLastError;
  api.GetUniqueId = GetUniqueId;
  api.CommInitRankConfig = CommInitRankConfig;
  api.CommGetAsyncError = CommGetAsyncError;
  api.CommFinalize = CommFinalize;
  api.CommDestroy = CommDestroy;
  api.CommAbort = CommAbort;
  api.GroupStart = GroupStart;
  api.GroupEnd = GroupEnd;
  api.AllReduce = AllReduce;
  api.AllGather = AllGather;
  api.Send = Send;
  api.Recv = Recv;
  return api;
}

void FakeNccl::SetFaults(int rank, const Faults& faults) {
  std::lock_guard<std::mutex> lock(world->mutex);
  world->faults[rank] = faults;
}
void FakeNccl::SetVersion(int version) { world->version = version; }

int FakeNccl::joins() const {
  std::lock_guard<std::mutex> lock(world->mutex);
  return world->joins;
}
int FakeNccl::aborts() const {
  std::lock_guard<std::mutex> lock(world->mutex);
  return world->aborts;
}
int FakeNccl::destroys() const {
  std::lock_guard<std::mutex> lock(world->mutex);
  return world->destroys;
}
int FakeNccl::windows() const {
  std::lock_guard<std::mutex> lock(world->mutex);
  return world->windows;
}
int FakeNccl::calls(int rank) const {
  std::lock_guard<std::mutex> lock(world->mutex);
  return world->calls[rank];
}

int FakeNccl::ends(int rank) const {
  std::lock_guard<std::mutex> lock(world->mutex);
  return static_cast<int>(
      std::count_if(world->comms.begin(), world->comms.end(),
                    [rank](const auto& comm) { return comm->rank == rank && comm->ended; }));
}

}  // namespace qwenserve
