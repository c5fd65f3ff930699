#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_REPLICA_LOAD_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_REPLICA_LOAD_H_

#include <cstdint>

#include "qwenserve/v1/generator.pb.h"
#include "services/gateway/routing/placement.h"
#include "services/gateway/routing/router.h"

namespace qwenserve {

// What one gateway knows of one replica's load, in tokens of work still to be done.
//
// Its own part is exact and known at once: places are counted when they are reserved, not when the
// replica tells of them, so that a burst between two heartbeats spreads. The other gateways' part
// is what a heartbeat tells less the own part. Not thread-safe.
class ReplicaLoad {
 public:
  // What is still counted for one sequence.
  struct Sequence {
    uint32_t prompt_tokens = 0;  // until its first token
    uint32_t expected_tokens = 0;
  };
  static Sequence OneOf(const PlaceCost& cost) {
    return {cost.prompt_tokens, cost.ExpectedAnswer()};
  }

  void Reserve(const PlaceCost& cost);
  // The sequence has produced tokens.
  void OnTokens(uint32_t tokens, Sequence* sequence);
  // It has ended, or its place was given back unused.
  void Remove(const Sequence& sequence);
  // `submitted`: sequences of this session that have been submitted and have not ended.
  void OnHeartbeat(const v1::EngineStats& stats, uint32_t submitted);

  // Load, and whether such a request has room: up to max_running sequences, beyond them what fits
  // into one step's prompt tokens, so that the replica never runs dry.
  ReplicaView View(const PlaceCost& cost, const v1::ServerHello& hello) const;

  // Reserved places and open sequences.
  uint32_t places() const { return places_; }
  // A step took longer than its budget when the last heartbeat was sent.
  bool stalled() const { return stalled_; }

 private:
  uint32_t places_ = 0;
  uint64_t prompt_tokens_ = 0;
  uint64_t expected_tokens_ = 0;
  uint32_t foreign_sequences_ = 0;
  uint64_t foreign_prompt_tokens_ = 0;
  bool stalled_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_REPLICA_LOAD_H_
