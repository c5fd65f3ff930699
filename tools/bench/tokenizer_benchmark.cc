// MB/s of the tokenizer on one thread.
//   tokenizer_benchmark MODEL_DIR [--benchmark_filter=...]      worst cases, a sample, decoding
//   tokenizer_benchmark MODEL_DIR --file=TEXT                   one text: best MB per CPU second of
//   five passes
#include <benchmark/benchmark.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "engine/tokenizer/stream_decoder.h"
#include "engine/tokenizer/tokenizer.h"

namespace qwenserve {
namespace {

constexpr size_t kMegabyte = 1000000;

std::string Repeat(absl::string_view unit) {
  std::string text;
  while (text.size() < kMegabyte) text.append(unit.data(), unit.size());
  return text;
}

std::vector<std::pair<std::string, std::string>> Texts() {
  return {
      {"mixed", Repeat("The quick brown fox doesn't jump over 13 lazy dogs; it's 2024-05-17.\n\n"
                       "通义千问是一个大规模语言模型，可以回答问题、创作文字。😀👍"
                       "🏽"
                       "\n"
                       "def forward(self, hidden_states):\n    return self.norm(hidden_states)\n"
                       "Съешь же ещё этих мягких французских булок. Führer naïve café.\n")},
      {"letter_a", Repeat("a")},
      {"spaces", Repeat(" ")},
      {"combining_marks", Repeat("\u0301\u0323\u0334")},
      {"chinese_no_spaces", Repeat("天地玄黄宇宙洪荒日月盈昃辰宿列张")},
      {"emoji", Repeat("😀👍🏽🧑‍🚀")},
      {"newlines", Repeat("\n")},
      {"punctuation", Repeat("=-")},
      {"random_letters", Repeat("qzjxkvbpygfwmucldrhsnioate")},
  };
}

void BenchmarkEncode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Encode(text));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}

// Ids of the mixed sample in items of state.range(0), as the streams of as many requests come in.
void BenchmarkDecode(benchmark::State& state, const Tokenizer& tokenizer) {
  const std::vector<int32_t> ids = *tokenizer.Encode(Texts().front().second);
  const auto step = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    DecodeItem item;
    for (size_t i = 0; i < ids.size(); i += step) {
      item.ids.assign(ids.begin() + i, ids.begin() + std::min(ids.size(), i + step));
      absl::StatusOr<DecodeResult> result = DecodeStep(tokenizer, item);
      item.pending = std::move(result->pending);
      benchmark::DoNotOptimize(result->text);
    }
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * ids.size()));
}

int EncodeFile(const Tokenizer& tokenizer, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  double best = 0;
  size_t count = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const std::clock_t start = std::clock();
    const auto ids = tokenizer.Encode(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    if (!ids.ok()) {
      std::cerr << ids.status() << "\n";
      return 1;
    }
    count = ids->size();
    best = std::max(best, static_cast<double>(text.size()) / 1e6 / seconds);
  }
  std::cout << "{\"mb_per_s\": " << best << ", \"tokens\": " << count << "}\n";
  return 0;
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc < 2) {
    std::cerr << "usage: tokenizer_benchmark MODEL_DIR [--file=TEXT | --benchmark_...]\n";
    return 2;
  }
  const auto tokenizer = qwenserve::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  const absl::string_view option = argc > 2 ? argv[2] : "";
  if (absl::StartsWith(option, "--file=")) {
    return qwenserve::EncodeFile(**tokenizer, std::string(option.substr(7)));
  }
  for (auto& [name, text] : qwenserve::Texts()) {
    benchmark::RegisterBenchmark(name.c_str(), [&tokenizer, text = text](benchmark::State& state) {
      qwenserve::BenchmarkEncode(state, **tokenizer, text);
    })->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark(
      "decode",
      [&tokenizer](benchmark::State& state) { qwenserve::BenchmarkDecode(state, **tokenizer); })
      ->ArgName("ids_per_item")
      ->Arg(1)
      ->Arg(16)
      ->Arg(1024)
      ->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
