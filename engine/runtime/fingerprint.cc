#include "engine/runtime/fingerprint.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/base/sha256.h"
#include "engine/model/rope.h"

namespace qwenserve {

std::string NumericsFingerprint(const Checkpoint& checkpoint, const std::string& content_hash,
                                const std::string& weight_numerics, KvFormat kv_format, int tp) {
  const ModelConfig& config = checkpoint.config();
  std::string text =
      absl::StrCat("version ", kNumericsVersion, "\ncheckpoint ", content_hash, "\nweights ",
                   weight_numerics, "\nkv ", KvFormatName(kv_format), "\ntp ", tp, "\nrope ",
                   absl::StrFormat("%a", config.rope_base), " ntk ", config.ntk_train_length,
                   " logn ", config.logn_train_length);
  if (config.yarn.has_value()) {
    absl::StrAppend(&text, " yarn ", absl::StrFormat("%a", config.yarn->factor), " ",
                    config.yarn->original_max_positions);
  }
  const std::vector<float> rope = SampleRopeValues(config);
  absl::StrAppend(&text, "\nrope values ",
                  Sha256Hex(absl::string_view(reinterpret_cast<const char*>(rope.data()),
                                              rope.size() * sizeof(float))));
  // They end answers here, whatever the request says.
  absl::StrAppend(&text, "\neos ", absl::StrJoin(checkpoint.generation_defaults().eos_ids, " "));
  return Sha256Hex(text);
}

}  // namespace qwenserve
