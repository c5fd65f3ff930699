#ifndef QWENSERVE_ENGINE_RUNTIME_RANK_MEETING_H_
#define QWENSERVE_ENGINE_RUNTIME_RANK_MEETING_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/parallel/rank_group.h"
#include "engine/runtime/rank_settings.h"
#include "kernels/backend.h"
#include "kernels/communicator.h"

namespace qwenserve {

// A rank's way to the others, when it has its weights and all its memory: over the group's memory,
// or, where the device has its own (Backend::needs_device_group), over a group of devices, whose
// identity rank 0 makes and the group's memory carries.
//
// Ranks may take very different times to load; the time-out of a group of devices begins when all
// are loaded. `max_sum`: floats of the longest sum (DeviceGroup). Errors are those of the backend
// and of the group.
absl::StatusOr<std::unique_ptr<Communicator>> MeetOtherRanks(const RankSettings& settings,
                                                             std::shared_ptr<RankGroup> group,
                                                             int64_t max_sum, Backend& backend);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_RANK_MEETING_H_
