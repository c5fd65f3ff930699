#ifndef QWENSERVE_SERVICES_GENERATOR_GENERATOR_ROLE_H_
#define QWENSERVE_SERVICES_GENERATOR_GENERATOR_ROLE_H_

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/monotonic_time.h"
#include "engine/runtime/engine.h"
#include "engine/runtime/engine_options.h"
#include "qwenserve/v1/generator.grpc.pb.h"
#include "services/common/metrics/metrics_compat.h"
#include "services/common/server_main.h"
#include "services/generator/generator_core.h"
#include "services/generator/generator_metrics.h"
#include "services/generator/node_hub.h"
#include "services/generator/node_role.h"
#include "services/generator/sim_engine.h"
#include "services/generator/wake_thread.h"

namespace qwenserve {

struct GeneratorOptions {
  EngineOptions engine;
  std::string served_model_name;  // empty: the name of the model's folder
  NodeFlags nodes;                // of a replica with several; this one is the leader's
  std::optional<SimOptions> sim = std::nullopt;  // instead of a model
  MetricsCompat metrics_compat = {};
};

// The generator as a process: the engine, the core, the gRPC service, and the thread that beats.
class GeneratorRole : public ServerRole, public v1::Generator::CallbackService {
 public:
  // Loads the model. Errors are the engine's.
  static absl::StatusOr<std::unique_ptr<ServerRole>> Create(const GeneratorOptions& options,
                                                            ServerContext& context);
  ~GeneratorRole() override;

  std::vector<grpc::Service*> services() override { return {this}; }
  void OnListening(const std::string& address) override;
  void OnDrain(absl::Duration time_left) override;
  int64_t InFlight() override;
  void CloseStreams() override;

  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  GeneratorRole(ServerContext& context, std::string model);

  absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const GeneratorOptions& options,
                                                     std::shared_ptr<const Tokenizer> tokenizer);
  void BeatLoop();
  // Tells health what the core says; false when the engine has failed for good.
  bool UpdateHealth();
  void UpdateMetrics();

  ServerContext& context_;
  const std::string model_;
  GeneratorMetrics metrics_;
  std::optional<RankMetrics> rank_metrics_;  // once the engine is there
  WakeThread wakes_;
  std::unique_ptr<NodeHub> hub_;  // null with one node
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GeneratorCore> core_;

  StopSignal stop_;
  std::thread beats_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_GENERATOR_ROLE_H_
