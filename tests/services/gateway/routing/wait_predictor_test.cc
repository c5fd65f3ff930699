#include "services/gateway/routing/wait_predictor.h"

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

// Two replicas whose time a prompt's token costs 1 ms and an answer's 10 ms, always busy.
class BusyReplicas {
 public:
  void Work(WaitPredictor* predictor, uint64_t prompt_tokens) {
    // What is left of 2 * 0.5 s for answers.
    const uint64_t answer_tokens = (1000 - prompt_tokens) / 10;
    ReplicaWork work;
    work.prompt_tokens = prompt_tokens;
    work.answer_tokens = answer_tokens;
    predictor->OnWork(work);
    now_ += absl::Milliseconds(500);
    predictor->Sample(now_, 2, true);
  }
  void Begin(WaitPredictor* predictor) { predictor->Sample(now_, 2, false); }

 private:
  absl::Time now_ = absl::UnixEpoch();
};

TEST(WaitPredictorTest, KnowsNothingBeforeReplicasWereBusy) {
  WaitPredictor predictor;
  EXPECT_EQ(predictor.Wait({1000, 1000}, 2), std::nullopt);
  ReplicaWork work;
  work.prompt_tokens = work.answer_tokens = 100;
  predictor.Sample(absl::UnixEpoch(), 2, false);
  predictor.OnWork(work);
  // They could have done more: nobody waited.
  predictor.Sample(absl::UnixEpoch() + absl::Seconds(1), 2, false);
  EXPECT_EQ(predictor.Wait({1000, 1000}, 2), std::nullopt);
  EXPECT_EQ(predictor.Start(1000), absl::ZeroDuration());
  EXPECT_EQ(predictor.Decode(1000), absl::ZeroDuration());
}

TEST(WaitPredictorTest, TellsWhatAPromptCostsFromWhatAnAnswerCosts) {
  WaitPredictor predictor;
  BusyReplicas replicas;
  replicas.Begin(&predictor);
  for (int i = 0; i < 40; ++i) replicas.Work(&predictor, 100 + 200 * (i % 4));
  const double prompts = absl::ToDoubleSeconds(*predictor.Wait({10000, 0}, 2));
  const double answers = absl::ToDoubleSeconds(*predictor.Wait({0, 1000}, 2));
  EXPECT_NEAR(prompts, 5, 0.5);
  EXPECT_NEAR(answers, 5, 0.5);
  // Twice the replicas, half the wait.
  EXPECT_NEAR(absl::ToDoubleSeconds(*predictor.Wait({10000, 0}, 4)), prompts / 2, 1e-6);
}

TEST(WaitPredictorTest, RequestsThatAreAllAlikeArePredictedAsAWhole) {
  WaitPredictor predictor;
  BusyReplicas replicas;
  replicas.Begin(&predictor);
  for (int i = 0; i < 10; ++i) replicas.Work(&predictor, 500);
  // Ten samples' work is ten samples' time.
  EXPECT_NEAR(absl::ToDoubleSeconds(*predictor.Wait({5000, 500}, 2)), 5, 0.05);
}

TEST(WaitPredictorTest, ExpectationsThatAreTooLowAreCorrected) {
  WaitPredictor predictor;
  absl::Time now = absl::UnixEpoch();
  predictor.Sample(now, 1, false);
  for (int i = 0; i < 400; ++i) {
    // A request of 100 tokens is taken each second, which is the replica's pace, but 50 of them
    // were expected.
    ReplicaWork work;
    work.answer_tokens = 50;
    predictor.OnWork(work);
    if (i % 2 == 0) predictor.OnPlaced({0, 50});
    now += absl::Milliseconds(500);
    predictor.Sample(now, 1, true);
  }
  // Ten requests are ten seconds.
  EXPECT_NEAR(absl::ToDoubleSeconds(*predictor.Wait({0, 500}, 1)), 10, 1.5);
}

TEST(WaitPredictorTest, FollowsReplicasThatSlowDown) {
  WaitPredictor predictor;
  ReplicaWork work;
  absl::Time now = absl::UnixEpoch();
  predictor.Sample(now, 1, false);
  auto run = [&](uint64_t tokens, int samples) {
    for (int i = 0; i < samples; ++i) {
      work.answer_tokens = tokens;
      predictor.OnWork(work);
      now += absl::Milliseconds(500);
      predictor.Sample(now, 1, true);
    }
    return absl::ToDoubleSeconds(*predictor.Wait({0, 1000}, 1));
  };
  EXPECT_NEAR(run(500, 20), 1, 0.02);
  EXPECT_NEAR(run(100, 120), 5, 0.3);
}

TEST(WaitPredictorTest, StepsLongerThanASampleCountWithAllTheirTime) {
  WaitPredictor predictor;
  absl::Time now = absl::UnixEpoch();
  predictor.Sample(now, 1, false);
  for (int i = 1; i <= 80; ++i) {
    if (i % 4 == 0) {
      ReplicaWork work;
      work.answer_tokens = 8;
      predictor.OnWork(work);
    }
    now += absl::Milliseconds(500);
    predictor.Sample(now, 1, true);
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(*predictor.Wait({0, 400}, 1)), 100, 1);
}

TEST(WaitPredictorTest, AnswersAreAsLongAsRecentOnes) {
  WaitPredictor predictor;
  EXPECT_EQ(predictor.MeanAnswer(50), 50u);
  EXPECT_EQ(predictor.MeanAnswer(100000), 256u);
  ReplicaWork work;
  for (uint32_t i = 0; i < 100; ++i) work.answers.push_back(i < 80 ? 10 : 500);
  predictor.OnWork(work);
  EXPECT_EQ(predictor.MeanAnswer(1000), 108u);
  EXPECT_EQ(predictor.MeanAnswer(40), 40u);
  const uint32_t longest = predictor.LongAnswer(1000);
  EXPECT_GE(longest, 500u);
  EXPECT_LE(longest, 725u);  // a class is half a doubling
  EXPECT_EQ(predictor.LongAnswer(40), 40u);
}

TEST(WaitPredictorTest, PaceAndStartAreMeans) {
  WaitPredictor predictor;
  ReplicaWork work;
  work.started_sequences = 4;
  work.start_delays = absl::Seconds(2);
  work.gap_tokens = 100;
  work.gaps = absl::Seconds(5);
  predictor.OnWork(work);
  EXPECT_NEAR(absl::ToDoubleSeconds(predictor.Start(1)), 0.5, 1e-9);
  EXPECT_NEAR(absl::ToDoubleSeconds(predictor.Decode(21)), 1, 1e-9);
  EXPECT_EQ(predictor.Decode(0), absl::ZeroDuration());
}

}  // namespace
}  // namespace qwenserve
