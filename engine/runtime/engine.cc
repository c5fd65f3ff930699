#include "engine/runtime/engine.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "engine/runtime/engine_impl.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       StepCallback on_step,
                                                       const LoadProgress& progress) {
  auto engine = std::make_unique<EngineImpl>(options, std::move(on_step));
  QS_RETURN_IF_ERROR(engine->Start(progress));
  return engine;
}

}  // namespace qwenserve
