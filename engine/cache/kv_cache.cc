#include "engine/cache/kv_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {

absl::StatusOr<KvCache> KvCache::Create(const HeadLayout& heads, KvFormat format,
                                        int64_t num_layers, int64_t num_blocks, Backend& backend) {
  QS_CHECK(num_layers > 0 && num_blocks > 0);
  const size_t bytes = backend.KvBytesPerBlock(heads, format) * static_cast<size_t>(num_blocks);
  KvCache cache;
  for (int64_t i = 0; i < num_layers; ++i) {
    absl::StatusOr<Buffer> buffer = backend.Allocate(bytes);
    if (!buffer.ok()) {
      return absl::ResourceExhaustedError(absl::StrCat("KV cache: layer ", i, " of ", num_layers,
                                                       " needs ", bytes, " bytes (", num_blocks,
                                                       " blocks): ", buffer.status().message()));
    }
    cache.layers_.push_back({buffer->data(), num_blocks, format});
    cache.buffers_.push_back(*std::move(buffer));
  }
  return cache;
}

int64_t KvBlockBytes(const HeadLayout& heads, KvFormat format, int64_t num_layers,
                     const Backend& backend) {
  return static_cast<int64_t>(backend.KvBytesPerBlock(heads, format)) * num_layers;
}

}  // namespace qwenserve
