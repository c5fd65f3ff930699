#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_PLACEMENT_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_PLACEMENT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "qwenserve/v1/generator.pb.h"
#include "services/gateway/routing/loss_cause.h"

namespace qwenserve {

// How a generation gets a place at a generator and hears from it.
//
// Threads: every method may be called from any thread and never blocks. Listeners are called
// without any lock of the caller, so they may call back; services may be called with the
// listener's lock held.

// One sequence of a generator reports here. What concerns another attempt than the sample's last
// is from a replica that was given up, and must be ignored.
class SequenceListener {
 public:
  virtual ~SequenceListener() = default;
  virtual void OnSequenceEvent(uint32_t sample, v1::SequenceEvent event) = 0;
  // The session ended; nothing more comes from this attempt.
  virtual void OnGeneratorLost(uint32_t sample, uint32_t attempt, LossCause cause) = 0;
  // The replica will not, or may never, bring it to its end: it should go on elsewhere if it can,
  // and stays otherwise. Comes again as long as that is so.
  virtual void OnHandOver(uint32_t sample, uint32_t attempt, LossCause cause) = 0;
};

// What a request asks of a replica.
struct PlaceCost {
  uint32_t sequences = 1;
  // Of each sequence.
  uint32_t prompt_tokens = 0;
  uint32_t max_tokens = 0;

  // A guess of what one sequence will cost, for the balance between replicas: most answers end
  // long before their max_tokens.
  constexpr uint64_t EstimatedTokens() const { return uint64_t{prompt_tokens} + ExpectedAnswer(); }
  constexpr uint32_t ExpectedAnswer() const { return max_tokens < 256 ? max_tokens : 256; }
};

// A connected generator.
class GeneratorReplica {
 public:
  virtual ~GeneratorReplica() = default;
  virtual const v1::ServerHello& hello() const = 0;
  // Sends `submit` with a sequence number of this session, which it returns. Uses up one of the
  // places that were reserved for `reserved`. nullopt: the session has ended.
  virtual std::optional<uint64_t> Submit(v1::Submit submit, const PlaceCost& reserved,
                                         std::shared_ptr<SequenceListener> listener) = 0;
  // The listener hears no more of it.
  virtual void Cancel(uint64_t sequence) = 0;
  virtual void AddCredit(uint64_t sequence, uint32_t tokens) = 0;
  // Gives back places that will not be used; other requests are placed from within, so without any
  // lock of the caller.
  virtual void Release(const PlaceCost& cost) = 0;
};

// A request that waits for a replica with room.
struct PlacementRequest {
  std::string model;
  std::string tokenizer_hash;
  // Only replicas with this numerics fingerprint; empty: any.
  std::string fingerprint;
  // Not these replicas, by instance_id.
  std::vector<std::string> excluded;
  // PrefixKeys of the prompt.
  std::vector<uint64_t> prefix_keys;
  PlaceCost cost;
  int32_t priority = 0;
  // Was accepted before, and lost its replica: goes before all that were not, and is never refused
  // for want of room.
  bool resumed = false;
  // The client's, on the services' clock.
  absl::Time deadline = absl::InfiniteFuture();
};

class PlacementListener {
 public:
  virtual ~PlacementListener() = default;
  // The places of the request's cost are reserved at the replica: use or release each.
  virtual void OnPlaced(std::shared_ptr<GeneratorReplica> replica) = 0;
  virtual void OnNotPlaced(absl::Status status) = 0;
};

class Placer {
 public:
  virtual ~Placer() = default;
  // Exactly one call of the listener follows, at once or later, unless Withdraw comes first.
  virtual void Place(PlacementRequest request, std::shared_ptr<PlacementListener> listener) = 0;
  virtual void Withdraw(const PlacementListener* listener) = 0;
  // Whether such a request would be refused now, so that nothing is spent on it before.
  virtual absl::Status Foresee(const PlacementRequest& request) const { return absl::OkStatus(); }
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_PLACEMENT_H_
