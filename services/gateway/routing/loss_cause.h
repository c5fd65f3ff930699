#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_LOSS_CAUSE_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_LOSS_CAUSE_H_

namespace qwenserve {

// Why a sample leaves a replica before its end. GatewayMetrics::failovers has them in this order.
enum class LossCause {
  kEnded,        // the session's stream ended: a crash, a kill, the network
  kSilent,       // nothing heard for too long: stopped, half-open link, a lost node
  kStalled,      // it answers, but a step does not end
  kFailed,       // it ended the sequence with UNAVAILABLE or CANCELLED of its own accord
  kDraining,     // it is about to exit, in order
  kRefused,      // no room at its door
  kUnreachable,  // its session was gone before it was asked
  kPaused,       // the gateway itself was stopped, and lost its sessions by that
};
inline constexpr int kNumLossCauses = static_cast<int>(LossCause::kPaused) + 1;

// As labels and attributes have it.
inline const char* LossCauseName(LossCause cause) {
  constexpr const char* kNames[] = {"ended",    "silent",  "stalled",     "failed",
                                    "draining", "refused", "unreachable", "paused"};
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == kNumLossCauses);
  return kNames[static_cast<int>(cause)];
}

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_LOSS_CAUSE_H_
