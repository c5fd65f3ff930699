// Any bytes as JSON, and what is made of it: model configuration and generation defaults.
#include <cstdint>
#include <cstdlib>

#include "engine/base/json_reader.h"
#include "engine/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = qwenserve::ParseJson(text, "fuzzed");
  if (!json.ok()) return 0;
  if (qwenserve::ShownJson(*json).size() > 1000) std::abort();
  const auto config = qwenserve::ParseModelConfig(*json, "fuzzed");
  if (!config.ok()) return 0;
  // Promised by ModelConfig: products of three sizes and 4 fit in 63 bits.
  const __int128 limit = (static_cast<__int128>(1) << 63) / 4;
  const __int128 sizes[] = {config->hidden_size, config->ffn_size, config->vocab_size,
                            config->num_layers};
  for (const __int128 a : sizes) {
    if (a <= 0) std::abort();
    for (const __int128 b : sizes) {
      for (const __int128 c : sizes) {
        if (a * b * c >= limit) std::abort();
      }
    }
  }
  return 0;
}
