// The whole model on a device whose activations are bf16, against the goldens of other
// implementations and against itself in other cuts: for every family, format of weights and cache.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "gtest/gtest.h"
#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/test_device.h"
#include "tests/parity/golden.h"
#include "tests/parity/tiny_replica.h"

namespace qwenserve {
namespace {

struct Case {
  std::string golden;
  WeightChoice weights = WeightChoice::kAuto;
  KvFormat kv = KvFormat::kBf16;
  std::string name;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

// Those whose heads every device has.
const Case kCases[] = {
    {"qwen1", WeightChoice::kAuto, KvFormat::kBf16, "qwen1"},
    {"qwen2_5", WeightChoice::kAuto, KvFormat::kBf16, "qwen2_5"},
    {"qwen3", WeightChoice::kAuto, KvFormat::kBf16, "qwen3"},
    {"qwen3", WeightChoice::kAuto, KvFormat::kInt8, "qwen3_kv_int8"},
    {"qwen1", WeightChoice::kInt8, KvFormat::kInt8, "qwen1_int8_kv_int8"},
    {"qwen2_5", WeightChoice::kInt4, KvFormat::kBf16, "qwen2_5_int4"},
    {"qwen3", WeightChoice::kInt8, KvFormat::kBf16, "qwen3_int8"},
};

class DeviceForwardTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const auto device = MakeTestDevice(TestDeviceNames().front(), 1);
    if (absl::IsNotFound(device.status())) GTEST_SKIP() << "no device: " << device.status();
    ASSERT_TRUE(device.ok()) << device.status();
    ASSERT_EQ((*device)->activation_type(), DType::kBf16);
    ranks_through_host_ = !(*device)->needs_device_group();
    golden_ = ReadGolden(GetParam().golden);
    config_ = (*Checkpoint::Open(golden_.dir))->config();
    forced_ = {{golden_.ids, golden_.cases[0].prompt_tokens}};
  }

  RunOptions OnDevice(int variant = 1, int tp = 1) const {
    RunOptions options = {[variant] { return *MakeTestDevice(TestDeviceNames().front(), variant); },
                          tp, GetParam().kv, nullptr};
    options.weights = GetParam().weights;
    return options;
  }
  Logits Run(const std::vector<Step>& steps, const RunOptions& options) const {
    return RunSteps(golden_.dir, forced_, steps, options);
  }

  // Roundings to bf16 on the way to a logit: of each layer's two norms, its query, key, value and
  // probabilities, what attention and the MLP give; and of the last norm. With a cache of int8 keys
  // and values are rounded to half as many steps.
  double Roundings() const {
    const double cache = GetParam().kv == KvFormat::kInt8 ? 2 * 4 : 2;
    return static_cast<double>(config_.num_layers) * (6 + cache) + 1;
  }

  bool ranks_through_host_ = false;
  Golden golden_;
  ModelConfig config_;
  std::vector<ForcedSequence> forced_;
};

INSTANTIATE_TEST_SUITE_P(Models, DeviceForwardTest, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

struct Distance {
  double largest = 0;      // of the first's logits
  double most = 0;         // difference of any
  double mean_square = 0;  // of the differences, to that of the first's logits, as a root
};

Distance Between(const Logits& a, const Logits& b) {
  Distance distance;
  double squares = 0, error_squares = 0;
  for (size_t p = 0; p < a[0].size(); ++p) {
    for (size_t i = 0; i < a[0][p].size(); ++i) {
      const double value = a[0][p][i], difference = b[0][p][i] - value;
      EXPECT_TRUE(std::isfinite(difference));
      distance.largest = std::max(distance.largest, std::abs(value));
      distance.most = std::max(distance.most, std::abs(difference));
      squares += value * value;
      error_squares += difference * difference;
    }
  }
  distance.mean_square = std::sqrt(error_squares / squares);
  return distance;
}

// The measure of a rounding is what the same roundings do to exact logits: the oracle rounds
// activations and cache as the device does, and that moves its logits by so much. The device rounds
// queries and probabilities besides, and a sum that lies near a border to the other side, so it may
// be that far from the oracle again.
TEST_P(DeviceForwardTest, LogitsAreAsNearAsTheRoundingOfActivationsAllows) {
  const auto oracle = [&](InputRounding rounding, KvFormat kv) {
    RunOptions options = {[rounding] { return std::make_unique<ReferenceBackend>(rounding); }, 1,
                          kv, nullptr};
    options.weights = GetParam().weights;
    return Run(OneShot(forced_), options);
  };
  const Logits exact = oracle(InputRounding::kNone, KvFormat::kF32);
  const Logits rounded = oracle(InputRounding::kGpu, GetParam().kv);
  const Distance measure = Between(exact, rounded);
  const Distance error = Between(rounded, Run(OneShot(forced_), OnDevice()));
  std::printf("%s: %.2e of the largest logit, %.2e in the mean square; rounding alone %.2e, %.2e\n",
              GetParam().name.c_str(), error.most / error.largest, error.mean_square,
              measure.most / measure.largest, measure.mean_square);
  EXPECT_LT(error.mean_square, 1.25 * measure.mean_square);
  EXPECT_LT(error.most, 2 * measure.most);
}

// Of the formats that keep what the goldens were made with. n roundings of unit u = 2^-8 with
// independent signs add up to at most lambda * sqrt(n) * u, but for a chance of
// 2 exp(-lambda^2 / 2) (Higham and Mary, 2019), relative to the values that are summed, which the
// largest logit stands for; lambda = 3: there are hundreds of logits, not millions.
TEST_P(DeviceForwardTest, LogitsAreNearTheGoldenOnes) {
  if (GetParam().weights != WeightChoice::kAuto) return;
  const Logits actual = Run(OneShot(forced_), OnDevice());
  double largest = 0, difference = 0;
  for (size_t i = 0; i < golden_.positions.size(); ++i) {
    const std::vector<float>& row = golden_.cases[0].logits[i];
    for (size_t id = 0; id < row.size(); ++id) {
      largest = std::max(largest, std::abs(double{row[id]}));
      difference =
          std::max(difference, std::abs(double{row[id]} - actual[0][golden_.positions[i]][id]));
    }
  }
  EXPECT_LT(difference, 3 * std::sqrt(Roundings()) * kBf16Rounding * largest);
}

TEST_P(DeviceForwardTest, AnySplitIntoStepsGivesTheSameBitsAndCache) {
  std::vector<std::string> whole_cache, cache;
  RunOptions options = OnDevice();
  options.kv_bytes = &whole_cache;
  const Logits whole = Run(OneShot(forced_), options);
  int variant = 2;
  for (const int64_t chunk : {1, 7, 16, 33}) {
    options = OnDevice(++variant);
    options.kv_bytes = &cache;
    const Logits parts = Run(Chunked(forced_, chunk), options);
    EXPECT_TRUE(parts == whole) << "chunks of " << chunk;
    EXPECT_TRUE(cache == whole_cache) << "chunks of " << chunk;
  }
}

// Among others of different lengths, in steps that mix single positions of some with stretches of
// others.
TEST_P(DeviceForwardTest, ABatchOfOneEqualsABatchOfMany) {
  std::mt19937 random(7);
  std::vector<ForcedSequence> many = forced_;
  for (const int64_t length : {1, 13, 30}) {
    ForcedSequence sequence;
    for (int64_t i = 0; i < length; ++i) {
      sequence.ids.push_back(static_cast<int32_t>(random() % config_.vocab_size));
    }
    sequence.prompt_tokens = (length + 1) / 2;
    many.push_back(sequence);
  }
  std::vector<int64_t> done(many.size(), 0);
  std::vector<Step> steps;
  for (bool more = true; more;) {
    more = false;
    Step step;
    for (size_t i = 0; i < many.size(); ++i) {
      const int64_t left = static_cast<int64_t>(many[i].ids.size()) - done[i];
      const int64_t count = std::min<int64_t>(left, random() % 3 == 0 ? random() % 20 : 1);
      if (count > 0) step.push_back({i, done[i], count});
      done[i] += count;
      more |= count < left;
    }
    if (!step.empty()) steps.push_back(step);
  }
  const Logits batch = RunSteps(golden_.dir, many, steps, OnDevice());
  for (size_t i = 0; i < many.size(); ++i) {
    const std::vector<ForcedSequence> alone = {many[i]};
    const Logits single = RunSteps(golden_.dir, alone, OneShot(alone), OnDevice(2));
    EXPECT_TRUE(batch[i] == single[0]) << "sequence " << i;
  }
}

TEST_P(DeviceForwardTest, RanksAgreeWithOneInWhatTheyRound) {
  if (!ranks_through_host_) GTEST_SKIP() << "ranks need a GPU each";
  const Distance distance =
      Between(Run(OneShot(forced_), OnDevice()), Run(Chunked(forced_, 9), OnDevice(1, 2)));
  EXPECT_LT(distance.most, 3 * std::sqrt(Roundings()) * kBf16Rounding * distance.largest);
}

}  // namespace
}  // namespace qwenserve
