// The CPU kernels on the shapes of a 0.5B Qwen2.5 (hidden 896, 14 query and 2 KV heads of 64, FFN
// 4864, 24 layers, vocabulary 151936), beside the limits of the machine in the same run.
//
// --isa NAME (first): the kernels of that instruction set; without it the best that the machine
// has.
//
// of_read: share of the streaming read limit, for what is bound by memory.
// of_peak: share of the peak of the instruction that does the arithmetic, for what is bound by
// that: fused multiply-adds, or dots of bytes or bf16 pairs where the kernels have them. tok/s of
// linears: of the whole model, as if nothing else took time.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/backend.h"
#include "tools/bench/machine_limits.h"

namespace qwenserve {
namespace {

constexpr int kLayers = 24;
constexpr int64_t kHidden = 896, kFfn = 4864, kVocabulary = 151936;
// The query heads of one KV head stacked, and every head with keys of its own (Qwen-7B).
constexpr HeadLayout kMhaHeads = {.num_query_heads = 32, .num_kv_heads = 32, .head_dim = 128};
constexpr HeadLayout kHeads = {
    .num_query_heads = 14, .num_kv_heads = 2, .head_dim = 64, .queries_per_kv = 7};

std::string& Isa() {
  static auto* const isa = new std::string("auto");
  return *isa;
}

std::unique_ptr<Backend> MakeBackend(const benchmark::State& state) {
  return *MakeCpuBackend({.num_threads = static_cast<int>(state.range(1)), .isa = Isa()});
}

// What does the arithmetic.
enum class Peak { kFma, kInt8Dot, kBf16Dot };

// Limits before and after the loop. The best pass of the limits is compared with the best pass of
// the kernel: on a shared machine everything else measures the neighbours.
class Limits {
 public:
  Limits(benchmark::State& state, Peak peak) : state_(state), peak_(peak), before_(Measure()) {}

  void Report(double bytes, double flops) {
    const MachineLimits after = Measure();
    const double read = std::max(before_.read_bytes_per_second, after.read_bytes_per_second);
    const double peak = std::max(PeakOf(before_), PeakOf(after));
    const double seconds = best_seconds_;
    state_.counters["GB/s"] = bytes / seconds * 1e-9;
    state_.counters["Gop/s"] = flops / seconds * 1e-9;
    state_.counters["limit_GB/s"] = read * 1e-9;
    state_.counters["limit_Gop/s"] = peak * 1e-9;
    state_.counters["of_read"] = bytes / seconds / read;
    if (peak > 0) state_.counters["of_peak"] = flops / seconds / peak;
  }

  double best_seconds() const { return best_seconds_; }

  template <typename Work>
  void Run(Work work) {
    for (auto _ : state_) {
      const auto start = std::chrono::steady_clock::now();
      work();
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      best_seconds_ = std::min(best_seconds_, time.count());
    }
  }

 private:
  MachineLimits Measure() const {
    return MeasureMachineLimits(static_cast<int>(state_.range(1)), Isa());
  }
  double PeakOf(const MachineLimits& limits) const {
    if (peak_ == Peak::kInt8Dot && limits.int8_ops_per_second > 0) {
      return limits.int8_ops_per_second;
    }
    if (peak_ == Peak::kBf16Dot && limits.bf16_flops_per_second > 0) {
      return limits.bf16_flops_per_second;
    }
    return limits.flops_per_second;
  }

  benchmark::State& state_;
  const Peak peak_;
  const MachineLimits before_;
  double best_seconds_ = 1e9;
};

LinearWeight RandomBf16(Backend& backend, int64_t out, int64_t in) {
  std::vector<uint16_t> values(out * in);
  uint32_t state = 1;
  for (uint16_t& v : values) {
    state = state * 1664525u + 1013904223u;
    // Sign and mantissa at random, magnitude in [2^-6, 2^-5).
    v = static_cast<uint16_t>((state >> 16 & 0x807fu) | 121u << 7);
  }
  const RowBlock block = {
      .data = values.data(), .dtype = DType::kBf16, .rows = out, .row_stride = in};
  return *backend.PackLinear({&block, 1}, in);
}

// Random codes, one scale.
class RandomRows final : public QuantizedRowSource {
 public:
  explicit RandomRows(const QuantizedShape& shape) : shape_(shape) {}
  absl::Status ReadRows(int64_t begin, int64_t end, const QuantizedRows& rows) const override {
    uint32_t state = static_cast<uint32_t>(begin);
    const uint32_t mask = shape_.format == WeightFormat::kInt4 ? 15 : 255;
    for (int64_t i = 0; i < (end - begin) * shape_.packed_inputs(); ++i) {
      state = state * 1664525u + 1013904223u;
      rows.codes[i] = static_cast<uint8_t>(state >> 16 & mask);
    }
    std::fill_n(rows.scales, (end - begin) * shape_.groups(), uint16_t{0x2000});  // 2^-7
    return absl::OkStatus();
  }

 private:
  const QuantizedShape& shape_;
};

// Symmetric, group_size 0: one group per row.
LinearWeight RandomQuantized(Backend& backend, WeightFormat format, int64_t out, int64_t in,
                             int64_t group_size) {
  const QuantizedShape shape = {.format = format,
                                .out_features = out,
                                .in_features = in,
                                .group_size = group_size == 0 ? in : group_size,
                                .has_zeros = false,
                                .input_order = {}};
  return *backend.PackQuantized(shape, RandomRows(shape));
}

// All linears of the model, in the order of a forward pass, with the head (8 bits, a scale per row,
// for quantised formats); from 128 rows on those of 4 layers only, so that a pass is short, and
// without the head, which sees one row of a prefill. Together they are larger than any cache.
void Linears(benchmark::State& state, WeightFormat format) {
  const int64_t rows = state.range(0);
  const bool decode = rows < 128;
  std::unique_ptr<Backend> backend = MakeBackend(state);
  const auto random = [&](int64_t out, int64_t in) {
    constexpr int64_t kGroup = 128;
    return IsQuantized(format) ? RandomQuantized(*backend, format, out, in, kGroup)
                               : RandomBf16(*backend, out, in);
  };
  const int64_t shapes[][2] = {
      {kHeads.qkv_width(), kHidden}, {kHidden, kHidden}, {2 * kFfn, kHidden}, {kHidden, kFfn}};
  const int layers = decode ? kLayers : 4;
  std::vector<LinearWeight> weights;
  for (int layer = 0; layer < layers; ++layer) {
    for (const auto& shape : shapes) weights.push_back(random(shape[0], shape[1]));
  }
  if (decode) {
    weights.push_back(IsQuantized(format)
                          ? RandomQuantized(*backend, WeightFormat::kInt8, kVocabulary, kHidden, 0)
                          : random(kVocabulary, kHidden));
  }
  double elements = 0, bytes = 0;
  int64_t widest = 0;
  for (const LinearWeight& weight : weights) {
    elements += static_cast<double>(weight.out_features * weight.in_features);
    bytes += static_cast<double>(weight.bytes());
    widest = std::max(widest, weight.out_features);
  }
  const Buffer x = *backend->Allocate(rows * kFfn * sizeof(float));
  const Buffer out = *backend->Allocate(rows * widest * sizeof(float));
  std::fill_n(x.as<float>(), rows * kFfn, 0.5f);

  Limits limits(state, IsQuantized(format) ? Peak::kInt8Dot : Peak::kBf16Dot);
  limits.Run([&] {
    for (const LinearWeight& weight : weights) {
      backend->Linear(x.as<float>(), rows, weight, nullptr, out.as<float>());
    }
  });
  limits.Report(bytes, elements * 2 * static_cast<double>(rows));
  state.counters["tok/s"] =
      static_cast<double>(rows) / (limits.best_seconds() * (kLayers / layers));
}

void BM_LinearsBf16(benchmark::State& state) { Linears(state, WeightFormat::kBf16); }
void BM_LinearsInt8(benchmark::State& state) { Linears(state, WeightFormat::kInt8); }
void BM_LinearsInt4(benchmark::State& state) { Linears(state, WeightFormat::kInt4); }

// The attention of the `rows` last positions of a sequence of `length`; a single row in as many
// layers as it takes for caches not to hold their keys.
void Attention(benchmark::State& state, const HeadLayout& heads, KvFormat format) {
  const int64_t rows = state.range(0), length = state.range(2);
  std::unique_ptr<Backend> backend = MakeBackend(state);
  const int64_t num_blocks = length / kKvBlockSize;
  const size_t layer_bytes = backend->KvBytesPerBlock(heads, format) * num_blocks;
  const int num_layers = rows >= 128 ? 2 : static_cast<int>((size_t{512} << 20) / layer_bytes + 1);
  std::vector<Buffer> layers;
  for (int i = 0; i < num_layers; ++i) {
    layers.push_back(*backend->Allocate(layer_bytes));
    // Small numbers in any format.
    std::fill_n(layers.back().as<uint16_t>(), layer_bytes / 2, uint16_t{0x3c01});
  }
  std::vector<int32_t> positions, sequences(rows), table(num_blocks);
  for (int64_t r = 0; r < rows; ++r) {
    positions.push_back(static_cast<int32_t>(length - rows + r));
  }
  for (int64_t i = 0; i < num_blocks; ++i) table[i] = static_cast<int32_t>(i * 7 % num_blocks);
  const int32_t row_starts[] = {0, static_cast<int32_t>(rows)};
  const AttentionBatch batch = {.num_rows = rows,
                                .num_sequences = 1,
                                .positions = positions.data(),
                                .sequences = sequences.data(),
                                .row_starts = row_starts,
                                .block_tables = table.data(),
                                .max_blocks = num_blocks};
  const std::vector<float> qkv(rows * heads.qkv_width(), 0.25f);
  std::vector<float> out(rows * heads.query_width());

  Limits limits(state, Peak::kFma);
  limits.Run([&] {
    for (const Buffer& layer : layers) {
      backend->PagedAttention(batch, heads, qkv.data(), {layer.data(), num_blocks, format},
                              out.data());
    }
  });
  double positions_seen = 0;
  for (int32_t position : positions) positions_seen += position + 1;
  // Multiply and add for each of q * k and p * v.
  const double flops = positions_seen * static_cast<double>(heads.query_width()) * 4;
  limits.Report(static_cast<double>(layer_bytes) * num_layers, flops * num_layers);
  state.counters["us_per_layer"] = limits.best_seconds() * 1e6 / num_layers;
}

// One row. Its logits are as a model's: a bell of 2.5 wide, and some that stand out.
void BM_Sample(benchmark::State& state) {
  std::unique_ptr<Backend> backend =
      *MakeCpuBackend({.num_threads = static_cast<int>(state.range(4)), .isa = Isa()});
  std::vector<float> logits(kVocabulary);
  uint32_t random = 1;
  for (float& v : logits) {
    float sum = -6;
    for (int i = 0; i < 12; ++i) {
      random = random * 1664525u + 1013904223u;
      sum += static_cast<float>(random >> 8) * 0x1p-24f;
    }
    v = 2.5f * sum;
  }
  for (int i = 0; i < 40; ++i) logits[i * 3001] = 18.0f - 0.2f * static_cast<float>(i);
  SampleRow row;
  row.temperature = static_cast<float>(state.range(0)) * 0.01f;
  row.top_k = static_cast<int32_t>(state.range(1));
  row.top_p = static_cast<float>(state.range(2)) * 0.01f;
  row.num_logprobs = static_cast<int32_t>(state.range(3));
  SampledToken token;
  for (auto _ : state) {
    // Nothing edits the logits of such a row, so they need no restoring.
    backend->Sample(logits.data(), kVocabulary, kVocabulary, {&row, 1}, nullptr, &token);
    ++row.position;
  }
  benchmark::DoNotOptimize(token.id);
}

void RowsAndThreads(benchmark::internal::Benchmark* benchmark, std::vector<int64_t> rows) {
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  for (int64_t threads : {int64_t{1}, int64_t{2}, cores}) {
    if (threads > cores || (threads == cores && cores <= 2)) continue;
    for (int64_t r : rows) benchmark->Args({r, threads});
  }
  benchmark->ArgNames({"rows", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
}

constexpr auto kLinearRows = [](benchmark::internal::Benchmark* b) {
  RowsAndThreads(b, {1, 2, 4, 8, 16, 128, 512});
};
BENCHMARK(BM_LinearsBf16)->Apply(kLinearRows);
BENCHMARK(BM_LinearsInt8)->Apply(kLinearRows);
BENCHMARK(BM_LinearsInt4)->Apply(kLinearRows);
BENCHMARK(BM_Sample)->Apply([](benchmark::internal::Benchmark* b) {
  b->ArgNames({"temperature_percent", "top_k", "top_p_percent", "logprobs", "threads"})
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
  for (int64_t threads : {1, 2, 4}) {
    b->Args({0, 0, 100, -1, threads});    // greedy
    b->Args({0, 0, 100, 5, threads});     // with log-probabilities
    b->Args({70, 20, 80, -1, threads});   // what Qwen's checkpoints ask for
    b->Args({100, 0, 100, -1, threads});  // the whole vocabulary
    b->Args({100, 0, 90, -1, threads});   // a small set
    b->Args({300, 0, 90, -1, threads});   // a set of many thousands
    b->Args({300, 50000, 90, -1, threads});
  }
});

void RegisterAttention() {
  const struct {
    const char* name;
    HeadLayout heads;
  } kLayouts[] = {{"gqa_14_2x64", kHeads}, {"mha_32x128", kMhaHeads}};
  for (const auto& layout : kLayouts) {
    for (const KvFormat format : kAllKvFormats) {
      const std::string name =
          absl::StrCat("BM_Attention/", layout.name, "/", KvFormatName(format));
      auto* benchmark = benchmark::RegisterBenchmark(
          name.c_str(), [=](benchmark::State& state) { Attention(state, layout.heads, format); });
      for (const int64_t threads : {1, 2, 4}) {
        benchmark->Args({1, threads, 4096});    // decode
        benchmark->Args({512, threads, 512});   // a whole prompt
        benchmark->Args({512, threads, 8192});  // a chunk of a long one
      }
      benchmark->ArgNames({"rows", "threads", "context"});
      benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
    }
  }
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "--isa") {
    qwenserve::Isa() = argv[2];
    argv[2] = argv[0];
    argc -= 2;
    argv += 2;
  }
  const auto name = qwenserve::CpuIsaName(qwenserve::Isa());
  if (!name.ok()) {
    std::fprintf(stderr, "%s\n", name.status().ToString().c_str());
    return 2;
  }
  benchmark::AddCustomContext("isa", *name);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  qwenserve::RegisterAttention();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
