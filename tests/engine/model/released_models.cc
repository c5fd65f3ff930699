#include "tests/engine/model/released_models.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qwenserve {
namespace {

const char* Bool(bool value) { return value ? "true" : "false"; }

struct Qwen1Size {
  const char* name;
  int64_t hidden, layers, heads, stored_ffn, vocab, rope_base, seq_length, max_positions;
  bool extended;  // use_dynamic_ntk and use_logn_attn
};

constexpr Qwen1Size kQwen1[] = {
    {"Qwen-1.8B", 2048, 24, 16, 11008, 151936, 10000, 8192, 8192, true},
    {"Qwen-7B", 4096, 32, 32, 22016, 151936, 10000, 8192, 32768, true},
    {"Qwen-14B", 5120, 40, 40, 27392, 152064, 10000, 2048, 8192, true},
    {"Qwen-72B", 8192, 80, 64, 49152, 152064, 1000000, 32768, 32768, false},
};

ReleasedModel FromQwen1(const Qwen1Size& size) {
  ReleasedModel model;
  model.name = size.name;
  model.config_json = absl::StrFormat(
      R"({"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "attn_dropout_prob": 0.0,
          "bf16": false, "emb_dropout_prob": 0.0, "fp16": false, "fp32": false,
          "hidden_size": %d, "initializer_range": 0.02, "intermediate_size": %d,
          "kv_channels": 128, "layer_norm_epsilon": 1e-06, "max_position_embeddings": %d,
          "no_bias": true, "num_attention_heads": %d, "num_hidden_layers": %d, "onnx_safe": null,
          "rotary_emb_base": %d, "rotary_pct": 1.0, "scale_attn_weights": true, "seq_length": %d,
          "tie_word_embeddings": false, "tokenizer_class": "QWenTokenizer",
          "transformers_version": "4.32.0", "use_cache": true, "use_dynamic_ntk": %s,
          "use_flash_attn": "auto", "use_logn_attn": %s, "vocab_size": %d})",
      size.hidden, size.stored_ffn, size.max_positions, size.heads, size.layers, size.rope_base,
      size.seq_length, Bool(size.extended), Bool(size.extended), size.vocab);
  model.style = CheckpointStyle::kQwen1;
  model.hidden = size.hidden;
  model.layers = size.layers;
  model.query_heads = model.kv_heads = size.heads;
  model.head_dim = 128;
  model.ffn = size.stored_ffn / 2;
  model.vocab = size.vocab;
  model.max_positions = size.max_positions;
  model.rope_base = static_cast<double>(size.rope_base);
  model.epsilon = 1e-6f;
  model.tied = false;
  model.ntk = model.logn = size.extended ? size.seq_length : 0;
  return model;
}

struct Qwen2Size {
  const char* name;
  int64_t hidden, layers, query_heads, kv_heads, head_dim, ffn, vocab, rope_base, max_positions;
  const char* epsilon;
  bool tied;
};

// head_dim is only written where the family writes it: Qwen3.
constexpr Qwen2Size kQwen2[] = {
    {"Qwen1.5-0.5B", 1024, 24, 16, 16, 64, 2816, 151936, 1000000, 32768, "1e-06", true},
    {"Qwen1.5-1.8B", 2048, 24, 16, 16, 128, 5504, 151936, 1000000, 32768, "1e-06", false},
    {"Qwen1.5-4B", 2560, 40, 20, 20, 128, 6912, 151936, 5000000, 32768, "1e-06", false},
    {"Qwen1.5-7B", 4096, 32, 32, 32, 128, 11008, 151936, 1000000, 32768, "1e-06", false},
    {"Qwen1.5-14B", 5120, 40, 40, 40, 128, 13696, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen1.5-32B", 5120, 64, 40, 8, 128, 27392, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen1.5-72B", 8192, 80, 64, 64, 128, 24576, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen1.5-110B", 8192, 80, 64, 8, 128, 49152, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen2-0.5B", 896, 24, 14, 2, 64, 4864, 151936, 1000000, 131072, "1e-06", true},
    {"Qwen2-0.5B-Instruct", 896, 24, 14, 2, 64, 4864, 151936, 1000000, 32768, "1e-06", true},
    {"Qwen2-1.5B", 1536, 28, 12, 2, 128, 8960, 151936, 1000000, 131072, "1e-06", true},
    {"Qwen2.5-1.5B-Instruct", 1536, 28, 12, 2, 128, 8960, 151936, 1000000, 32768, "1e-06", true},
    {"Qwen2.5-Math-1.5B", 1536, 28, 12, 2, 128, 8960, 151936, 10000, 4096, "1e-06", true},
    {"Qwen2.5-3B", 2048, 36, 16, 2, 128, 11008, 151936, 1000000, 32768, "1e-06", true},
    {"Qwen2-7B", 3584, 28, 28, 4, 128, 18944, 152064, 1000000, 131072, "1e-06", false},
    {"Qwen2.5-7B-Instruct", 3584, 28, 28, 4, 128, 18944, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen2.5-14B", 5120, 48, 40, 8, 128, 13824, 152064, 1000000, 131072, "1e-05", false},
    {"Qwen2.5-14B-Instruct", 5120, 48, 40, 8, 128, 13824, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen2.5-32B", 5120, 64, 40, 8, 128, 27648, 152064, 1000000, 131072, "1e-05", false},
    {"Qwen2.5-32B-Instruct", 5120, 64, 40, 8, 128, 27648, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen2-72B", 8192, 80, 64, 8, 128, 29568, 152064, 1000000, 131072, "1e-05", false},
    {"Qwen2.5-72B-Instruct", 8192, 80, 64, 8, 128, 29568, 152064, 1000000, 32768, "1e-06", false},
    {"Qwen3-0.6B", 1024, 28, 16, 8, 128, 3072, 151936, 1000000, 40960, "1e-06", true},
    {"Qwen3-1.7B", 2048, 28, 16, 8, 128, 6144, 151936, 1000000, 40960, "1e-06", true},
    {"Qwen3-4B", 2560, 36, 32, 8, 128, 9728, 151936, 1000000, 40960, "1e-06", true},
    {"Qwen3-4B-Instruct-2507", 2560, 36, 32, 8, 128, 9728, 151936, 5000000, 262144, "1e-06", true},
    {"Qwen3-8B", 4096, 36, 32, 8, 128, 12288, 151936, 1000000, 40960, "1e-06", false},
    {"Qwen3-8B-Base", 4096, 36, 32, 8, 128, 12288, 151936, 1000000, 32768, "1e-06", false},
    {"Qwen3-14B", 5120, 40, 40, 8, 128, 17408, 151936, 1000000, 40960, "1e-06", false},
    {"Qwen3-32B", 5120, 64, 64, 8, 128, 25600, 151936, 1000000, 40960, "1e-06", false},
};

ReleasedModel FromQwen2(const Qwen2Size& size) {
  ReleasedModel model;
  model.name = size.name;
  const bool third = model.name.rfind("Qwen3", 0) == 0;
  const std::string family =
      third ? absl::StrCat(R"("architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
          "attention_bias": false, "head_dim": )",
                           size.head_dim, R"(, "rope_scaling": null)")
            : R"("architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2")";
  model.config_json = absl::StrFormat(
      R"({%s, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
          "hidden_act": "silu", "hidden_size": %d, "initializer_range": 0.02,
          "intermediate_size": %d, "max_position_embeddings": %d, "max_window_layers": 28,
          "num_attention_heads": %d, "num_hidden_layers": %d, "num_key_value_heads": %d,
          "rms_norm_eps": %s, "rope_theta": %d.0, "sliding_window": 32768,
          "tie_word_embeddings": %s, "torch_dtype": "bfloat16", "use_cache": true,
          "use_sliding_window": false, "vocab_size": %d})",
      family, size.hidden, size.ffn, size.max_positions, size.query_heads, size.layers,
      size.kv_heads, size.epsilon, size.rope_base, Bool(size.tied), size.vocab);
  model.style = third ? CheckpointStyle::kQwen3 : CheckpointStyle::kQwen2;
  model.hidden = size.hidden;
  model.layers = size.layers;
  model.query_heads = size.query_heads;
  model.kv_heads = size.kv_heads;
  model.head_dim = size.head_dim;
  model.ffn = size.ffn;
  model.vocab = size.vocab;
  model.max_positions = size.max_positions;
  model.rope_base = static_cast<double>(size.rope_base);
  model.epsilon = std::stof(size.epsilon);
  model.tied = size.tied;
  model.ntk = model.logn = 0;
  return model;
}

}  // namespace

std::vector<ReleasedModel> ReleasedModels() {
  std::vector<ReleasedModel> models;
  for (const Qwen1Size& size : kQwen1) models.push_back(FromQwen1(size));
  for (const Qwen2Size& size : kQwen2) models.push_back(FromQwen2(size));
  return models;
}

}  // namespace qwenserve
