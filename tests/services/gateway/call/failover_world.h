#ifndef QWENSERVE_TESTS_SERVICES_GATEWAY_CALL_FAILOVER_WORLD_H_
#define QWENSERVE_TESTS_SERVICES_GATEWAY_CALL_FAILOVER_WORLD_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "services/gateway/call/generate_call.h"
#include "services/gateway/routing/placement_queue.h"

namespace qwenserve {

// One call among replicas that come and go, in virtual time and in one thread: what happens next is
// drawn from a seed. Token i is a hash of all before it, so that a lost one shows.

class World;

class WorldReplica final : public PlacementTarget {
 public:
  WorldReplica(World* world, std::string instance_id);

  const v1::ServerHello& hello() const override { return hello_; }
  std::optional<uint64_t> Submit(v1::Submit submit, const PlaceCost& reserved,
                                 std::shared_ptr<SequenceListener> listener) override;
  void Cancel(uint64_t sequence) override;
  void AddCredit(uint64_t sequence, uint32_t tokens) override;
  void Release(const PlaceCost& cost) override;
  ReplicaView View(const PlaceCost& cost) const override;
  bool Reserve(const PlaceCost& cost) override;

  bool takes_new() const { return up_ && !draining_; }
  bool up() const { return up_; }
  int places() const { return places_; }
  bool has_work() const { return !sequences_.empty(); }

  // One token for some sequences; their events wait in the mail.
  void Step();
  // Hands over one event of the mail. False: there was none.
  bool DeliverOne();
  // Some of the mail may still come afterwards, as it may from another thread.
  void Lose(LossCause cause);
  void OfferHandOver(LossCause cause);
  void Drain() { draining_ = true; }

 private:
  struct Sequence {
    v1::Submit submit;
    std::shared_ptr<SequenceListener> listener;  // null: cancelled
    std::vector<uint32_t> ids;                   // resumed ones too
    uint32_t credit = 0;
    int scored = 1;  // prompt tokens, the first one is never
  };
  struct Mail {
    uint64_t sequence;
    v1::SequenceEvent event;
  };
  void Produce(uint64_t number, Sequence* sequence);
  static void Hand(const Sequence& sequence, const v1::SequenceEvent& event);

  World* const world_;
  v1::ServerHello hello_;
  bool up_ = true;
  bool draining_ = false;
  int places_ = 0;
  uint64_t next_ = 1;
  std::map<uint64_t, Sequence> sequences_;
  std::deque<Mail> mail_;
};

struct WorldAnswer {
  std::vector<uint32_t> ids;
  std::string text;
  std::string logprobs;
  v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED;
  std::string stop;
  bool operator==(const WorldAnswer& other) const = default;
};

struct WorldResult {
  absl::Status status;
  std::vector<WorldAnswer> answers;
  std::string prompt_logprobs;
  uint32_t failovers = 0;
  int events = 0;  // handed to the call
};

class World final : public TextService {
 public:
  struct Faults {
    double refusal = 0;   // of a submit
    double drain = 0;     // per turn, each with an offer to hand over
    double loss = 0;      // per turn
    double stall = 0;     // an offer to hand over, per turn
    int most_losses = 0;  // in all
    int lose_at = -1;     // after so many events, once
  };
  World(uint64_t seed, const Faults& faults, GatewayMetrics* metrics);

  // From the request to its end. Afterwards nothing is left anywhere, or the test fails.
  WorldResult Run(const GenerateRequest& request);

  bool Chance(double probability) {
    return std::uniform_real_distribution<>(0, 1)(random_) < probability;
  }
  int Pick(int below) { return std::uniform_int_distribution<>(0, below - 1)(random_); }
  const Faults& faults() const { return faults_; }
  void OnCapacity() { pump_ = true; }
  void OnEvent() { ++events_; }

  std::function<void()> Prepare(v1::PrepareRequest request, const std::string& hash, absl::Time,
                                PrepareCallback done) override;
  uint64_t NewKey() override { return ++last_key_; }
  void Detokenize(v1::DetokenizeItem item, const std::string&,
                  std::shared_ptr<TextListener> listener) override;
  void Flush() override {}

 private:
  void Turn();
  void Harm();
  void AddReplica();
  void Read(WorldResult* result);

  std::mt19937_64 random_;
  const Faults faults_;
  absl::Time now_ = absl::UnixEpoch();
  Admission admission_;
  KeyLimits key_limits_;
  RetryBudget retries_;
  CallServices services_;
  std::vector<std::shared_ptr<WorldReplica>> replicas_;
  std::unique_ptr<PlacementQueue> queue_;
  std::shared_ptr<GenerateCall> call_;
  PrepareCallback prepared_;
  std::deque<std::pair<v1::DetokenizeItem, std::shared_ptr<TextListener>>> items_;
  uint64_t last_key_ = 0;
  int instances_ = 0;
  int losses_ = 0;
  int events_ = 0;
  bool pump_ = false;
  bool ended_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GATEWAY_CALL_FAILOVER_WORLD_H_
