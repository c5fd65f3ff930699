#include "tools/bench/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/host_memory.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

float FusedMultiplyAddRounds(int64_t rounds, float factor);  // fma_peak.cc
// dot_peak_*.cc
float FusedMultiplyAdd512Rounds(int64_t rounds);
float Int8Dot512Rounds(int64_t rounds);
float Bf16Dot512Rounds(int64_t rounds);

namespace {

constexpr int64_t kReadBytes = int64_t{1} << 29;
constexpr int kPasses = 5;
constexpr int64_t kRounds = 400'000;
constexpr int64_t kChains = 12;

template <typename Work>
std::vector<double> PassSeconds(Work work) {
  std::vector<double> seconds;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    seconds.push_back(time.count());
  }
  return seconds;
}

template <typename Work>
double BestSeconds(Work work) {
  const std::vector<double> seconds = PassSeconds(work);
  return *std::min_element(seconds.begin(), seconds.end());
}

// 8 independent loads of 32 bytes, xor-ed.
uint64_t Read(const char* data, int64_t bytes) {
  typedef uint64_t Word __attribute__((vector_size(32)));
  Word sums[8] = {};
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
    for (int j = 0; j < 8; ++j) {
      Word word;
      std::memcpy(&word, data + i + j * 32, sizeof word);
      sums[j] ^= word;
    }
    __builtin_prefetch(data + i + 2048);
    __builtin_prefetch(data + i + 2048 + 64);
    __builtin_prefetch(data + i + 2048 + 128);
    __builtin_prefetch(data + i + 2048 + 192);
  }
  uint64_t sum = 0;
  for (const Word& word : sums) sum ^= word[0] ^ word[1] ^ word[2] ^ word[3];
  return sum;
}

const char* ReadBuffer() {
  static const Buffer* const buffer = [] {
    auto* memory = new Buffer(*AllocateHostMemory(kReadBytes));
    std::memset(memory->data(), 1, memory->bytes());
    return memory;
  }();
  return buffer->as<char>();
}

}  // namespace

std::vector<double> StreamingReadPasses(int num_threads) {
  ThreadPool pool(num_threads, {});
  const char* data = ReadBuffer();
  std::vector<uint64_t> sums(static_cast<size_t>(num_threads));
  std::vector<double> rates = PassSeconds([&] {
    pool.Run([&](int thread) {
      const WorkRange part = StaticPart(kReadBytes / 256, thread, num_threads);
      sums[thread] = Read(data + part.begin * 256, (part.end - part.begin) * 256);
    });
  });
  volatile uint64_t keep = sums[0];
  (void)keep;
  for (double& rate : rates) rate = kReadBytes / rate;
  return rates;
}

MachineLimits MeasureMachineLimits(int num_threads, const std::string& isa) {
  const std::vector<double> read = StreamingReadPasses(num_threads);
  MachineLimits limits;
  limits.read_bytes_per_second = *std::max_element(read.begin(), read.end());
  const std::string name = (*ChooseKernels(isa))->name;
  if (name == "portable" || name == "neon" || name == "neondot") return limits;
  ThreadPool pool(num_threads, {});
  // Products and sums per second of a loop of kChains vectors.
  const auto rate = [&](int64_t products, auto rounds) {
    std::vector<float> results(static_cast<size_t>(num_threads));
    const double seconds =
        BestSeconds([&] { pool.Run([&](int thread) { results[thread] = rounds(); }); });
    volatile float keep = results[0];
    (void)keep;
    return static_cast<double>(kRounds * kChains * products * 2 * num_threads) / seconds;
  };
  if (name == "avx2") {
    limits.flops_per_second = rate(8, [] { return FusedMultiplyAddRounds(kRounds, 0.5f); });
    return limits;
  }
  limits.flops_per_second = rate(16, [] { return FusedMultiplyAdd512Rounds(kRounds); });
  limits.int8_ops_per_second = rate(64, [] { return Int8Dot512Rounds(kRounds); });
  if (name == "avx512bf16" || name == "amx") {
    limits.bf16_flops_per_second = rate(32, [] { return Bf16Dot512Rounds(kRounds); });
  }
  return limits;
}

}  // namespace qwenserve
