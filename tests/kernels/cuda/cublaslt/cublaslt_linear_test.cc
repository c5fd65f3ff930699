// How products are chosen between cuBLASLt and our own kernels, over a stand-in for the library.
#include "kernels/cuda/cublaslt/cublaslt_linear.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/simt_faults.h"
#include "tests/kernels/cuda/cublaslt/fake_cublaslt.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kIn = 16, kOut = 8, kMostRows = 600;

class CublasLtLinearTest : public testing::Test {
 protected:
  CublasLtLinearTest() {
    for (int64_t i = 0; i < kOut * kIn; ++i) {
      weights_.as<uint16_t>()[i] = FloatToBf16(static_cast<float>(i % 7 - 3));
    }
    for (int64_t i = 0; i < kMostRows * kIn; ++i) {
      x_.as<uint16_t>()[i] = FloatToBf16(static_cast<float>(i % 5 - 2));
    }
    for (int64_t i = 0; i < kOut; ++i) bias_.as<float>()[i] = static_cast<float>(i);
    fake_.offered = {1, 2, 3};
    fake_.time_of = {{1, absl::Milliseconds(5)}, {2, absl::Milliseconds(3)}, {3, absl::Seconds(1)}};
    weight_.out_features = kOut;
    weight_.in_features = kIn;
    weight_.format = WeightFormat::kInt4;
  }
  ~CublasLtLinearTest() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<CublasLtLinear> Make() {
    CublasLtOptions options;
    options.unpack = [this](const LinearWeight&, void* out) {
      std::memcpy(out, weights_.data(), kOut * kIn * sizeof(uint16_t));
      ++unpacked_;
    };
    options.choices_file = file_;
    options.warn = [this](absl::string_view what) { warnings_.emplace_back(what); };
    options.now = [this] { return fake_.now; };
    auto made = CublasLtLinear::Create(*device_, FakeCublasLt::Api(), options);
    EXPECT_TRUE(made.ok()) << made.status();
    (*made)->Reserve(weight_);
    return *std::move(made);
  }

  // Who did the last product: an algorithm's number, or 0 for our own kernel.
  uint64_t Multiply(CublasLtLinear& linear, int64_t rows, const float* bias = nullptr,
                    bool may_measure = true) {
    const CublasLtLinear::Product product = {x_.data(), rows, &weight_, bias, out_.as<float>()};
    uint64_t last = 99;
    size_t used = fake_.used.size();
    linear.Multiply(
        product, may_measure,
        [&] {
          fake_.now += own_time_;
          last = 0;
          used = fake_.used.size();
        },
        nullptr);
    return fake_.used.size() > used ? fake_.used.back() : last;
  }

  std::string FileText() const {
    std::ostringstream text;
    text << std::ifstream(file_).rdbuf();
    return text.str();
  }

  FakeCublasLt fake_;
  std::shared_ptr<SimtFaults> faults_ = std::make_shared<SimtFaults>();
  std::unique_ptr<GpuDevice> device_ = MakeSimtDevice(1, faults_);
  Buffer weights_ = *AllocateGpuBuffer(*device_, kOut* kIn * sizeof(uint16_t));
  Buffer x_ = *AllocateGpuBuffer(*device_, kMostRows* kIn * sizeof(uint16_t));
  Buffer bias_ = *AllocateGpuBuffer(*device_, kOut * sizeof(float));
  Buffer out_ = *AllocateGpuBuffer(*device_, kMostRows* kOut * sizeof(float));
  LinearWeight weight_;
  std::string dir_ = absl::StrCat(testing::TempDir(), "/product_choices_", getpid());
  std::string file_ = dir_ + "/cache/choices.tsv";
  absl::Duration own_time_ = absl::Milliseconds(4);
  int unpacked_ = 0;
  std::vector<std::string> warnings_;
};

TEST_F(CublasLtLinearTest, MultipliesWhatItIsGiven) {
  const auto linear = Make();
  for (const float* bias : {static_cast<const float*>(nullptr), bias_.as<const float>()}) {
    ASSERT_EQ(Multiply(*linear, 70, bias), 2u);
    for (int64_t r = 0; r < 70; ++r) {
      for (int64_t o = 0; o < kOut; ++o) {
        float sum = bias == nullptr ? 0 : bias[o];
        for (int64_t i = 0; i < kIn; ++i) {
          sum += static_cast<float>(((r * kIn + i) % 5 - 2) * ((o * kIn + i) % 7 - 3));
        }
        ASSERT_EQ(out_.as<float>()[r * kOut + o], sum) << r << " " << o;
      }
    }
  }
}

TEST_F(CublasLtLinearTest, TheFastestWinsAndIsMeasuredOncePerBucket) {
  const auto linear = Make();
  EXPECT_EQ(Multiply(*linear, 100), 2u);
  const size_t measured = fake_.used.size();
  EXPECT_EQ(Multiply(*linear, 128), 2u);
  EXPECT_EQ(fake_.used.size(), measured + 1);
  EXPECT_EQ(fake_.heuristics_asked, 1);
  // Another bucket, in which our own kernel is faster.
  own_time_ = absl::Milliseconds(2);
  EXPECT_EQ(Multiply(*linear, 129), 0u);
  EXPECT_EQ(fake_.heuristics_asked, 2);
  EXPECT_EQ(Multiply(*linear, 256), 0u);
  EXPECT_EQ(fake_.heuristics_asked, 2);
  // With a bias it is another product.
  EXPECT_EQ(Multiply(*linear, 100, bias_.as<float>()), 0u);
  EXPECT_EQ(fake_.heuristics_asked, 3);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(CublasLtLinearTest, OnlyReductionsThatRepeatAndTheWorkspaceThatThereIs) {
  Multiply(*Make(), 100);
  EXPECT_EQ(fake_.reductions, 6u);  // not in place
  EXPECT_EQ(fake_.workspace, CublasLtLinear::kWorkspaceBytes);
}

TEST_F(CublasLtLinearTest, FewRowsAndExactFormatsAreOurs) {
  const auto linear = Make();
  EXPECT_EQ(Multiply(*linear, 64), 0u);
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kF16}) {
    weight_.format = format;
    EXPECT_EQ(Multiply(*linear, 100), 0u);
  }
  EXPECT_EQ(fake_.heuristics_asked, 0);
  EXPECT_EQ(unpacked_, 0);
}

TEST_F(CublasLtLinearTest, NothingIsMeasuredWhileWorkIsRecorded) {
  const auto linear = Make();
  EXPECT_EQ(Multiply(*linear, 100, nullptr, /*may_measure=*/false), 0u);
  EXPECT_EQ(fake_.heuristics_asked, 0);
  EXPECT_EQ(Multiply(*linear, 100), 2u);
  EXPECT_EQ(Multiply(*linear, 100, nullptr, /*may_measure=*/false), 2u);
}

TEST_F(CublasLtLinearTest, CandidatesThatFailAreLeftOut) {
  fake_.failing = {2};
  own_time_ = absl::Milliseconds(40);
  EXPECT_EQ(Multiply(*Make(), 100), 1u);
  std::filesystem::remove(file_);
  fake_.failing = {1, 2, 3};
  EXPECT_EQ(Multiply(*Make(), 100), 0u);
  std::filesystem::remove(file_);
  fake_.failing = {};
  fake_.heuristic_status = 7;
  EXPECT_EQ(Multiply(*Make(), 100), 0u);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("a product is done without cuBLASLt")));
}

TEST_F(CublasLtLinearTest, AChoiceThatFailsLaterIsDoneByOurOwnKernelFromThenOn) {
  const auto linear = Make();
  EXPECT_EQ(Multiply(*linear, 100), 2u);
  fake_.failing = {2};
  EXPECT_EQ(Multiply(*linear, 101), 0u);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("refuses")));
  fake_.failing = {};
  EXPECT_EQ(Multiply(*linear, 101), 0u);
  EXPECT_THAT(warnings_, SizeIs(1));
}

TEST_F(CublasLtLinearTest, WhatBelongsBehindAProductComesBehindIt) {
  const auto linear = Make();
  const CublasLtLinear::Product product = {x_.data(), 100, &weight_, nullptr, out_.as<float>()};
  std::vector<size_t> finished;
  linear->Multiply(
      product, true, [&] { fake_.now += own_time_; },
      [&] { finished.push_back(fake_.used.size()); });
  ASSERT_FALSE(finished.empty());
  EXPECT_THAT(finished, SizeIs(fake_.used.size()));
  for (size_t i = 0; i < finished.size(); ++i) EXPECT_EQ(finished[i], i + 1);
}

TEST_F(CublasLtLinearTest, ChoicesOutliveTheProcess) {
  Multiply(*Make(), 100);
  own_time_ = absl::Milliseconds(1);
  Multiply(*Make(), 300);  // ours
  const auto linear = Make();
  fake_.used.clear();
  EXPECT_EQ(Multiply(*linear, 100), 2u);
  EXPECT_EQ(Multiply(*linear, 300), 0u);
  EXPECT_THAT(fake_.used, ElementsAre(2));
  EXPECT_EQ(fake_.heuristics_asked, 2);
}

TEST_F(CublasLtLinearTest, ChoicesOfAnotherVersionAreKeptButNotUsed) {
  Multiply(*Make(), 100);
  fake_.version = 130100;
  Multiply(*Make(), 100);
  EXPECT_EQ(fake_.heuristics_asked, 2);
  fake_.version = 130000;
  Multiply(*Make(), 100);
  fake_.version = 130100;
  Multiply(*Make(), 100);
  EXPECT_EQ(fake_.heuristics_asked, 2);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(CublasLtLinearTest, SeveralProcessesShareAFile) {
  const auto a = Make(), b = Make();
  Multiply(*a, 100);
  Multiply(*b, 200);
  const int asked = fake_.heuristics_asked;
  const auto c = Make();
  EXPECT_EQ(Multiply(*c, 100), 2u);
  EXPECT_EQ(Multiply(*c, 200), 2u);
  EXPECT_EQ(fake_.heuristics_asked, asked);
}

TEST_F(CublasLtLinearTest, RanksThatWriteAtOnceDoNoHarm) {
  const auto warn = [](absl::string_view what) { ADD_FAILURE() << std::string(what); };
  std::vector<std::thread> ranks;
  for (int64_t rank = 1; rank <= 4; ++rank) {
    ranks.emplace_back([this, rank, warn] {
      ProductChoices choices("a GPU", file_, warn);
      for (int64_t i = 1; i <= 50; ++i) {
        choices.Add({i, 64 * rank, 64, WeightFormat::kBf16, false}, ProductChoice());
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  const ProductChoices choices("a GPU", file_, warn);
  // The last one to write had all of its own.
  int whole = 0;
  for (int64_t rank = 1; rank <= 4; ++rank) {
    int found = 0;
    for (int64_t i = 1; i <= 50; ++i) {
      found += choices.Find({i, 64 * rank, 64, WeightFormat::kBf16, false}) != nullptr;
    }
    whole += found == 50;
  }
  EXPECT_GE(whole, 1);
  // Nothing unfinished stays.
  const std::filesystem::directory_iterator files(std::filesystem::path(file_).parent_path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST_F(CublasLtLinearTest, ADamagedFileIsIgnoredWithAWarningAndReplaced) {
  Multiply(*Make(), 100);
  const std::string good = FileText();
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << good;
    return text.replace(at, from.size(), to);
  };
  for (const std::string& bad :
       {good.substr(0, good.size() / 2), std::string("\n"), std::string(3000, '\xff'),
        replaced("choices 1", "choices 2"), replaced("int4", "int5"), replaced("\t128\t", "\t-1\t"),
        replaced("\t128\t", "\t1e3\t"), replaced(",0,", ",zero,"), replaced(",0", ""),
        good + "a\tline\n"}) {
    SCOPED_TRACE(bad);
    std::ofstream(file_, std::ios::trunc) << bad;
    warnings_.clear();
    const int asked = fake_.heuristics_asked;
    EXPECT_EQ(Multiply(*Make(), 100), 2u);
    EXPECT_EQ(fake_.heuristics_asked, asked + 1);
    EXPECT_THAT(warnings_, ElementsAre(HasSubstr("damaged")));
    EXPECT_EQ(FileText(), good);
  }
}

TEST_F(CublasLtLinearTest, AFileThatCannotBeWrittenIsNoReasonToStop) {
  std::filesystem::create_directories(dir_);
  std::ofstream(dir_ + "/cache") << "a file where a folder should be";
  EXPECT_EQ(Multiply(*Make(), 100), 2u);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("cannot write")));
  warnings_.clear();
  file_.clear();
  EXPECT_EQ(Multiply(*Make(), 100), 2u);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(CublasLtLinearTest, WithoutMemoryForTheWeightProductsAreOurs) {
  weight_.in_features = int64_t{1} << 20;
  weight_.out_features = 256;
  faults_->SetTotalMemory(size_t{100} << 20);
  const auto linear = Make();
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("some products are not done by cuBLASLt")));
  EXPECT_EQ(Multiply(*linear, 100), 0u);
  EXPECT_EQ(fake_.heuristics_asked, 0);
}

TEST_F(CublasLtLinearTest, ADeviceErrorEndsTheMeasuring) {
  const auto linear = Make();
  faults_->FailAfter(0, absl::UnavailableError("the GPU has fallen off the bus"));
  EXPECT_EQ(Multiply(*linear, 100), 0u);
  EXPECT_THAT(fake_.used, IsEmpty());
}

TEST_F(CublasLtLinearTest, ALibraryThatDoesNotStartIsAnError) {
  fake_.start_status = 1;
  CublasLtOptions options;
  options.unpack = [](const LinearWeight&, void*) {};
  const auto made = CublasLtLinear::Create(*device_, FakeCublasLt::Api(), options);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(made.status().message(), HasSubstr("does not start: a status"));
}

}  // namespace
}  // namespace qwenserve
