#ifndef QWENSERVE_ENGINE_CACHE_KV_CACHE_H_
#define QWENSERVE_ENGINE_CACHE_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention_batch.h"
#include "kernels/backend.h"

namespace qwenserve {

// One rank's memory for keys and values: for every layer num_blocks blocks of kKvBlockSize tokens.
// All ranks have the same number of blocks, and block b means the same positions on all of them.
// Must not outlive the backend.
class KvCache {
 public:
  // RESOURCE_EXHAUSTED naming the layer and the bytes when there is no room.
  static absl::StatusOr<KvCache> Create(const HeadLayout& heads, KvFormat format,
                                        int64_t num_layers, int64_t num_blocks, Backend& backend);

  absl::Span<const KvLayer> layers() const { return layers_; }

 private:
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> layers_;
};

// Bytes that one more block costs this rank, all layers together.
int64_t KvBlockBytes(const HeadLayout& heads, KvFormat format, int64_t num_layers,
                     const Backend& backend);

// Blocks that `positions` tokens need.
constexpr int64_t BlocksFor(int64_t positions) {
  return (positions + kKvBlockSize - 1) / kKvBlockSize;
}

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_CACHE_KV_CACHE_H_
