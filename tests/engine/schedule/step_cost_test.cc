#include "engine/schedule/step_cost.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

// A machine whose steps take 8 ms + 0.1 ms for each decoding row, and 0.5 ms + 0.1 us x position
// for each prefill row.
absl::Duration Took(const StepShape& shape, double factor = 1) {
  const double ms = (shape.decode_rows > 0 ? 8 : 0) + 0.1 * static_cast<double>(shape.decode_rows) +
                    0.5 * static_cast<double>(shape.prefill_rows) +
                    0.0001 * static_cast<double>(shape.prefill_positions);
  return absl::Milliseconds(ms * factor);
}

StepShape Shape(int64_t decode_rows, int64_t first_position, int64_t rows) {
  StepShape shape;
  shape.decode_rows = decode_rows;
  shape.prefill_rows = rows;
  shape.prefill_positions = rows * first_position + rows * (rows - 1) / 2;
  return shape;
}

double Ms(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

TEST(StepCost, KnowsNothingAtFirst) {
  const StepCost cost;
  EXPECT_FALSE(cost.has_learned());
  EXPECT_EQ(cost.Decode(4), absl::ZeroDuration());
  EXPECT_EQ(cost.Prefill(0, 100), absl::ZeroDuration());
  EXPECT_EQ(cost.RowsWithin(absl::Seconds(1), 0), 0);
}

TEST(StepCost, LearnsDecodingForEachNumberOfRows) {
  StepCost cost;
  for (int i = 0; i < 50; ++i) {
    cost.Learn(Shape(1, 0, 0), Took(Shape(1, 0, 0)));
    cost.Learn(Shape(32, 0, 0), Took(Shape(32, 0, 0)));
  }
  EXPECT_NEAR(Ms(cost.Decode(1)), 8.1, 0.01);
  EXPECT_NEAR(Ms(cost.Decode(32)), 11.2, 0.01);
  EXPECT_TRUE(cost.HasDecode(40));
  EXPECT_FALSE(cost.HasDecode(8));
  EXPECT_EQ(cost.Decode(2), cost.Decode(1));  // the nearest
  EXPECT_EQ(cost.Decode(1 << 20), cost.Decode(32));
  EXPECT_EQ(cost.Decode(0), absl::ZeroDuration());
}

TEST(StepCost, LearnsRowsAndWhatTheirPositionAdds) {
  StepCost cost;
  cost.Learn(Shape(4, 0, 0), Took(Shape(4, 0, 0)));
  std::mt19937 random(1);
  for (int64_t position = 0; position < 8000;) {
    const int64_t rows = 16 + static_cast<int64_t>(random() % 50);
    const double noise = 0.95 + 0.1 * static_cast<double>(random() % 1000) / 1000;
    cost.Learn(Shape(4, position, rows), Took(Shape(4, position, rows), noise));
    position += rows;
  }
  for (int64_t position : {6000, 8000}) {
    const double truth = Ms(Took(Shape(0, position, 32)));
    EXPECT_NEAR(Ms(cost.Prefill(position, 32)), truth, 0.2 * truth) << position;
    const int64_t rows = cost.RowsWithin(absl::Milliseconds(20), position);
    EXPECT_NEAR(Ms(Took(Shape(0, position, rows))), 20, 4) << position;
    // The two answers agree.
    EXPECT_LE(Ms(cost.Prefill(position, rows)), 20.01);
    EXPECT_GT(Ms(cost.Prefill(position, rows + 1)), 19.99);
  }
}

TEST(StepCost, FollowsAMachineThatGetsSlower) {
  StepCost cost;
  for (int i = 0; i < 200; ++i) cost.Learn(Shape(0, 0, 64), Took(Shape(0, 0, 64)));
  const double before = Ms(cost.Prefill(0, 64));
  for (int i = 0; i < 200; ++i) cost.Learn(Shape(0, 0, 64), Took(Shape(0, 0, 64), 3));
  EXPECT_NEAR(Ms(cost.Prefill(0, 64)), 3 * before, 0.1 * before);
}

TEST(StepCost, OnePauseOfTheMachineIsNoStep) {
  StepCost cost;
  for (int i = 0; i < 20; ++i) cost.Learn(Shape(2, 0, 0), Took(Shape(2, 0, 0)));
  cost.Learn(Shape(2, 0, 0), absl::Seconds(10));
  EXPECT_LT(Ms(cost.Decode(2)), 2 * 8.2);
}

TEST(StepCost, ExpectsOfAStepWhatItsPartsTook) {
  StepCost cost;
  for (int i = 0; i < 50; ++i) cost.Learn(Shape(4, 0, 0), Took(Shape(4, 0, 0)));
  EXPECT_NEAR(Ms(cost.Step(Shape(4, 0, 0))), 8.4, 0.01);
  EXPECT_EQ(cost.Step(Shape(4, 0, 64)), absl::ZeroDuration()) << "no prompt was seen";
  for (int i = 0; i < 50; ++i) cost.Learn(Shape(0, 0, 64), Took(Shape(0, 0, 64)));
  EXPECT_NEAR(Ms(cost.Step(Shape(4, 0, 64))), 8.4 + 32.2, 0.1);
  EXPECT_NEAR(Ms(cost.Step(Shape(0, 0, 64))), 32.2, 0.1);
  EXPECT_EQ(cost.Step(StepShape()), absl::ZeroDuration());
}

TEST(StepCost, ExpectsNothingOfAStepWhoseAnswersWereNeverSeen) {
  StepCost cost;
  cost.Learn(Shape(0, 0, 64), Took(Shape(0, 0, 64)));
  EXPECT_EQ(cost.Step(Shape(4, 0, 64)), absl::ZeroDuration());
}

TEST(StepCost, GoesToTwiceOfWhatWasSeenAtOnce) {
  StepCost cost;
  cost.Learn(Shape(0, 0, 10), absl::Microseconds(1));  // too good to be true
  EXPECT_EQ(cost.RowsWithin(absl::Hours(1), 0), 64);
  cost.Learn(Shape(0, 0, 64), absl::Microseconds(1));
  EXPECT_EQ(cost.RowsWithin(absl::InfiniteDuration(), 0), 128);
}

// Whatever it is told, what it says can be used.
TEST(StepCost, StaysSaneOnNonsense) {
  StepCost cost;
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    const StepShape shape =
        Shape(random() % 3 == 0 ? 0 : random() % 100, random() % 30000, random() % 600);
    cost.Learn(shape, absl::Nanoseconds(static_cast<int64_t>(random() % 1000000000) - 1000));
    const int64_t position = random() % 30000;
    ASSERT_TRUE(std::isfinite(Ms(cost.Prefill(position, 100))));
    ASSERT_GE(cost.Prefill(position, 100), absl::ZeroDuration());
    const int64_t rows = cost.RowsWithin(absl::Milliseconds(random() % 1000), position);
    ASSERT_GE(rows, 0);
    ASSERT_LE(rows, 2 * 600);
    ASSERT_GE(cost.Decode(random() % 1000), absl::ZeroDuration());
  }
}

}  // namespace
}  // namespace qwenserve
