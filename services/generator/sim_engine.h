#ifndef QWENSERVE_SERVICES_GENERATOR_SIM_ENGINE_H_
#define QWENSERVE_SERVICES_GENERATOR_SIM_ENGINE_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/runtime/engine.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/event_queue.h"
#include "engine/tokenizer/tokenizer.h"
#include "services/common/flags.h"
#include "services/generator/sim_replica.h"

namespace qwenserve {

// What --engine=sim takes besides EngineOptions.
struct SimOptions {
  double step_ms = 20;
  double per_sequence_us = 0;
  double prefill_rate = 20000;
  int64_t kv_blocks = 65536;
  int64_t mean_tokens = 256;
  std::string script;       // a file; empty = none
  std::string fingerprint;  // empty: from model, tokenizer and what decides tokens
  int64_t crash_after_tokens = 0;
};

// The flags --sim-*; `options` holds their defaults.
void AddSimFlags(Flags& flags, SimOptions* options);

// An Engine without weights, for tests of everything around one: SimReplica and a thread that waits
// as long as each step takes. A step time of 0 runs without waits.
class SimEngine final : public Engine {
 public:
  // Of `engine` only the model's folder (its configuration), the limits of lengths, batch, queue
  // and step, and prefix_cache count. `model` is the served name, a part of the fingerprint.
  // INVALID_ARGUMENT naming the flag or the script's field.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& engine,
                                                        const SimOptions& sim,
                                                        const std::string& model,
                                                        std::shared_ptr<const Tokenizer> tokenizer,
                                                        StepCallback on_step);
  ~SimEngine() override;

  absl::StatusOr<uint64_t> Submit(SequenceRequest request) override;
  void Cancel(uint64_t sequence) override;
  void AddCredit(uint64_t sequence, int64_t tokens) override;
  EngineStats Stats() const override;
  const EngineInfo& info() const override { return info_; }
  absl::Status Health() const override;

 private:
  SimEngine(EngineInfo info, absl::Duration step_timeout, std::unique_ptr<SimReplica> replica,
            StepCallback on_step);

  void Run();
  // False when nothing was to be done.
  bool RunStep();
  void Deliver(StepEvents events);
  void Changed();  // under the lock

  const EngineInfo info_;
  const absl::Duration step_timeout_;
  EventQueue events_;

  mutable std::mutex mutex_;  // guards what follows
  // Apart, so that what comes in during a step does not wake the thread that waits for its end.
  std::condition_variable work_;
  std::condition_variable step_end_;
  const std::unique_ptr<SimReplica> replica_;  // Prepare needs no lock
  bool stop_ = false;
  bool changed_ = false;
  // Of the last step, where the next one follows at once.
  absl::Time planned_end_ = absl::InfinitePast();

  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SIM_ENGINE_H_
