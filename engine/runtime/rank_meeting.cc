#include "engine/runtime/rank_meeting.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/parallel/group_communicator.h"

namespace qwenserve {
namespace {

// All ranks are loaded by then, so that only a broken network takes longer.
constexpr absl::Duration kJoinTimeout = absl::Seconds(120);

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MeetOtherRanks(const RankSettings& settings,
                                                             std::shared_ptr<RankGroup> group,
                                                             int64_t max_sum, Backend& backend) {
  group->SetPhase(settings.rank, RankGroup::Phase::kLoaded);
  if (settings.tp == 1 || !backend.needs_device_group()) {
    return MakeGroupCommunicator(std::move(group), settings.rank, settings.step_timeout);
  }
  QS_RETURN_IF_ERROR(group->WaitAll(RankGroup::Phase::kLoaded));
  if (settings.rank == 0) {
    QS_ASSIGN_OR_RETURN(const std::string id, backend.NewDeviceGroup(settings.nccl_library));
    group->SetDeviceGroupId(id);
  }
  DeviceGroup devices;
  QS_ASSIGN_OR_RETURN(devices.id, group->WaitForDeviceGroupId());
  devices.rank = settings.rank;
  devices.size = settings.tp;
  devices.library = settings.nccl_library;
  devices.timeout = std::min(kJoinTimeout, settings.step_timeout);
  devices.max_sum = max_sum;
  devices.health = [group] { return group->Health(); };
  return backend.JoinDeviceGroup(devices);
}

}  // namespace qwenserve
