#ifndef QWENSERVE_SERVICES_GENERATOR_GENERATOR_METRICS_H_
#define QWENSERVE_SERVICES_GENERATOR_GENERATOR_METRICS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/parallel/rank_group.h"
#include "services/common/metrics/metrics.h"

namespace qwenserve {

// qwenserve_model_info: always 1, its labels tell how a replica holds its model.
void SetModelInfo(Metrics& metrics, const std::string& model, const std::string& device,
                  const std::string& weight_format, const std::string& kv_format, int tp);

// qwenserve_cache_info: always 1. `block_size` in tokens.
void SetCacheInfo(Metrics& metrics, const std::string& model, int64_t block_size,
                  int64_t num_blocks);

// `model` is the served name and a label of every series.
struct GeneratorMetrics {
  GeneratorMetrics(Metrics& metrics, const std::string& model);
  Gauge& running;
  Gauge& waiting;
  Gauge& queued_tokens;
  Gauge& kv_blocks_used;
  Gauge& kv_blocks_total;
  Gauge& kv_usage_ratio;
  Gauge& prefix_cache_blocks;
  Gauge& step_age;
  Gauge& sessions;
  Counter& steps;
  Counter& prompt_tokens;
  Counter& cached_prompt_tokens;
  Counter& generated_tokens;
  Counter& preemptions;
  Counter& surplus_tokens;
  Counter& rows_from_pairs;
  Counter& rows_gathered;
  Counter& prefix_cache_queried_tokens;
  Counter& prefix_cache_hit_tokens;
  Counter& prefix_cache_evictions;
  Counter& finished_stop;
  Counter& finished_length;
  Counter& finished_cancelled;
  Counter& finished_deadline;
  Counter& finished_error;
  Counter& rejected;
  Histogram& step_duration;
  Histogram& step_tokens;
  Histogram& step_sequences;
  // Of sequences, in the order of their lives.
  Histogram& queue_duration;
  Histogram& prefill_duration;
  Histogram& first_token;
  Histogram& inter_token;
  Histogram& decode_duration;
  Histogram& sequence_duration;
  Histogram& prompt_tokens_per_sequence;
  Histogram& tokens_per_sequence;
};

// One series per rank of the tensor-parallel group: what each does, and where it has a device with
// memory of its own, how full that is.
class RankMetrics {
 public:
  // `ranks` decides which series there are.
  RankMetrics(Metrics& metrics, const std::string& model, const std::vector<RankProgress>& ranks);
  void Set(const std::vector<RankProgress>& ranks);

 private:
  struct Series {
    Gauge* step_age = nullptr;
    Counter* steps = nullptr;
    Counter* collective_seconds = nullptr;  // null with one rank
    Gauge* memory_used = nullptr;           // null without a device of its own
    Gauge* memory_total = nullptr;
  };
  std::vector<Series> series_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_GENERATOR_METRICS_H_
