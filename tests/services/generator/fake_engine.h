#ifndef QWENSERVE_TESTS_SERVICES_GENERATOR_FAKE_ENGINE_H_
#define QWENSERVE_TESTS_SERVICES_GENERATOR_FAKE_ENGINE_H_

#include <map>
#include <utility>
#include <vector>

#include "engine/runtime/engine.h"

namespace qwenserve {

// An engine that does nothing by itself: the test says what each step produced.
class FakeEngine : public Engine {
 public:
  static constexpr int32_t kEosId = 2;

  FakeEngine() {
    info_.defaults.eos_ids = {kEosId};
    info_.config.vocab_size = 1000;
    info_.max_model_len = 100;
    info_.max_running = 4;
    info_.max_waiting = 4;
    info_.kv_block_size = 16;
    info_.fingerprint = "f00d";
    info_.device = "cpu";
  }

  absl::StatusOr<uint64_t> Submit(SequenceRequest request) override {
    if (!submit_error.ok()) return submit_error;
    const uint64_t handle = next_handle_++;
    submitted.emplace(handle, std::move(request));
    return handle;
  }
  void Cancel(uint64_t sequence) override { cancelled.push_back(sequence); }
  void AddCredit(uint64_t sequence, int64_t tokens) override { credit[sequence] += tokens; }
  EngineStats Stats() const override { return stats; }
  const EngineInfo& info() const override { return info_; }
  absl::Status Health() const override { return health; }

  std::map<uint64_t, SequenceRequest> submitted;
  std::vector<uint64_t> cancelled;
  std::map<uint64_t, int64_t> credit;
  absl::Status submit_error;
  absl::Status health;
  EngineStats stats;

 private:
  EngineInfo info_;
  uint64_t next_handle_ = 1000;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GENERATOR_FAKE_ENGINE_H_
