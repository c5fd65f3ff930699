#ifndef QWENSERVE_ENGINE_RUNTIME_FOLLOWER_H_
#define QWENSERVE_ENGINE_RUNTIME_FOLLOWER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/loader/checkpoint.h"
#include "engine/parallel/rank_group.h"
#include "engine/runtime/rank_settings.h"

namespace qwenserve {

// A rank other than 0: does what the plans say until one says shutdown (OK) or the group ends (the
// reason, which the group then knows too). `checkpoint` may be shared with other ranks.
absl::Status FollowPlans(const RankSettings& settings, const Checkpoint& checkpoint,
                         std::shared_ptr<RankGroup> group);

// Ranks as processes. EngineOptions::rank_binary is started with FollowerArguments, and its main()
// begins with
//
//   if (IsFollowerCommand(argc, argv)) return RunFollower(argc, argv);
//
// before it parses flags, opens sockets or starts threads. The process dies with its parent, and
// ignores the signals that a terminal sends to parent and child alike: rank 0 says when it ends.
std::vector<std::string> FollowerArguments(const std::string& binary, const RankSettings& settings);
bool IsFollowerCommand(int argc, char** argv);
// The program's exit status; 0 after an orderly shutdown.
int RunFollower(int argc, char** argv);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_FOLLOWER_H_
