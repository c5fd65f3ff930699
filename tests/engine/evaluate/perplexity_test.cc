#include "engine/evaluate/perplexity.h"

#include <cmath>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

TEST(ScoreRowTest, IsTheDefinition) {
  const float row[] = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  const float shifted[] = {row[0] + 7, row[1] + 7, row[2] + 7};
  EXPECT_NEAR(ScoreRow(row, nullptr, 3, 1).negative_log_likelihood, std::log(4.0), 1e-6);
  EXPECT_NEAR(ScoreRow(shifted, nullptr, 3, 0).negative_log_likelihood, std::log(2.0), 1e-6);

  EXPECT_NEAR(ScoreRow(shifted, row, 3, 0).kl, 0, 1e-6);
  EXPECT_TRUE(ScoreRow(shifted, row, 3, 0).same_top);
  const float other[] = {std::log(0.2f), std::log(0.6f), std::log(0.2f)};
  const RowScore score = ScoreRow(row, other, 3, 0);
  EXPECT_NEAR(score.kl,
              0.2 * std::log(0.2 / 0.5) + 0.6 * std::log(0.6 / 0.25) + 0.2 * std::log(0.2 / 0.25),
              1e-6);
  EXPECT_FALSE(score.same_top);

  const float broken[] = {0, std::nanf(""), 0};
  EXPECT_TRUE(std::isnan(ScoreRow(broken, nullptr, 3, 0).negative_log_likelihood));
}

class EvaluateTest : public testing::Test {
 protected:
  std::unique_ptr<LogitRunner> MakeRunner(const LogitRunnerOptions& options) {
    auto runner = LogitRunner::Create(*checkpoint_, options);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return *std::move(runner);
  }
  static std::vector<int32_t> Ids(int64_t count) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(i * 37 % 320));
    return ids;
  }

  std::unique_ptr<Checkpoint> checkpoint_ =
      *Checkpoint::Open(WriteTinyCheckpoint("perplexity", TinyModel()));
  ThreadPool pool_{2, {}};
};

TEST_F(EvaluateTest, ScoresEveryTokenButTheFirstOfEachWindow) {
  LogitRunnerOptions options;
  options.max_length = 40;
  const auto runner = MakeRunner(options);
  const std::vector<int32_t> ids = Ids(100);
  int64_t told = 0;
  const auto evaluation = Evaluate(
      ids, 40, *runner, nullptr, pool_, [&](int64_t done, int64_t) { told = done; }, nullptr);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  EXPECT_EQ(evaluation->model.tokens, 39 + 39 + 19);
  EXPECT_EQ(told, 100);
  // By hand: each window from its start.
  double sum = 0;
  for (int64_t begin : {0, 40, 80}) {
    const auto window = absl::MakeConstSpan(ids).subspan(begin, std::min<int64_t>(40, 100 - begin));
    const auto logits = runner->Run(window, 0, static_cast<int64_t>(window.size()));
    for (size_t i = 0; i + 1 < window.size(); ++i) {
      double total = 0;
      for (int64_t v = 0; v < 320; ++v) total += std::exp(double{(*logits)[i * 320 + v]});
      sum += std::log(total) - (*logits)[i * 320 + window[i + 1]];
    }
  }
  EXPECT_NEAR(evaluation->model.negative_log_likelihood / sum, 1, 1e-9);
  EXPECT_NEAR(evaluation->model.perplexity(), std::exp(sum / 97), 1e-6);

  // A last window of one token predicts nothing.
  const auto shorter =
      Evaluate(absl::MakeConstSpan(ids).first(41), 40, *runner, nullptr, pool_, nullptr, nullptr);
  EXPECT_EQ(shorter->model.tokens, 39);
}

TEST_F(EvaluateTest, StepsAndThreadsDoNotChangeABit) {
  LogitRunnerOptions options;
  options.max_length = 64;
  const auto whole = MakeRunner(options);
  options.max_rows = 7;
  options.num_threads = 3;
  const auto cut = MakeRunner(options);
  const std::vector<int32_t> ids = Ids(130);
  const auto first = Evaluate(ids, 64, *whole, nullptr, pool_, nullptr, nullptr);
  const auto second = Evaluate(ids, 64, *cut, nullptr, pool_, nullptr, nullptr);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->model.negative_log_likelihood, second->model.negative_log_likelihood);

  const auto both = Evaluate(ids, 64, *cut, whole.get(), pool_, nullptr, nullptr);
  ASSERT_TRUE(both.ok());
  EXPECT_EQ(both->reference.negative_log_likelihood, first->model.negative_log_likelihood);
  EXPECT_EQ(both->divergence.kl_max, 0);
  EXPECT_EQ(both->divergence.same_top, both->model.tokens);
}

TEST_F(EvaluateTest, FindsTheDifferenceOfAnotherModel) {
  TinyModel other_model;
  other_model.seed = 2;
  const auto other_checkpoint = *Checkpoint::Open(WriteTinyCheckpoint("perplexity_2", other_model));
  const auto other = *LogitRunner::Create(*other_checkpoint, {});
  const auto runner = MakeRunner({});
  const auto evaluation = Evaluate(Ids(100), 64, *runner, other.get(), pool_, nullptr, nullptr);
  ASSERT_TRUE(evaluation.ok());
  EXPECT_GT(evaluation->divergence.kl_sum / static_cast<double>(evaluation->model.tokens), 0.1);
  EXPECT_LT(evaluation->divergence.same_top, evaluation->model.tokens / 2);
}

TEST_F(EvaluateTest, SaysWhatIsWrong) {
  const auto runner = MakeRunner({});
  const auto evaluate = [&](const std::vector<int32_t>& ids, LogitRunner* reference,
                            const std::function<bool()>& cancelled) {
    return Evaluate(ids, 64, *runner, reference, pool_, nullptr, cancelled).status();
  };
  EXPECT_THAT(std::string(evaluate({5}, nullptr, nullptr).message()), HasSubstr("1 tokens"));
  EXPECT_THAT(std::string(evaluate({5, 320}, nullptr, nullptr).message()),
              HasSubstr("id 320 of a vocabulary of 320"));
  EXPECT_EQ(evaluate({5, 6}, nullptr, [] { return true; }).code(), absl::StatusCode::kCancelled);
  TinyModel larger;
  larger.vocab_size = 352;
  const auto checkpoint = *Checkpoint::Open(WriteTinyCheckpoint("perplexity_3", larger));
  const auto other = *LogitRunner::Create(*checkpoint, {});
  EXPECT_THAT(std::string(evaluate({5, 6}, other.get(), nullptr).message()),
              HasSubstr("320 and 352"));
}

}  // namespace
}  // namespace qwenserve
