#include "services/generator/sim_script.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/services/generator/sim_harness.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

absl::StatusOr<std::vector<SimRule>> Parse(const std::string& text) {
  absl::StatusOr<Json> json = ParseJson(text, "script");
  EXPECT_TRUE(json.ok()) << json.status();
  return ParseSimScript(*json, "script", *DemoTokenizer());
}

SimReplicaOptions WithScript(const std::string& text) {
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.rules = *Parse(text);
  return options;
}

std::vector<int32_t> Ids(const std::string& text) { return *DemoTokenizer()->Encode(text); }

SequenceRequest Ask(const std::string& prompt, int64_t max_tokens = 50) {
  SequenceRequest request = SimDriver::Request(Ids(prompt), max_tokens);
  request.sampling.ignore_eos = false;
  return request;
}

std::string Text(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += std::string(DemoTokenizer()->TokenBytes(id));
  return text;
}

TEST(SimScriptTest, AnswersAreEncodedAsAModelWritesThem) {
  const std::vector<SimRule> rules = *Parse(R"([
    {"answer": "the end<|im_end|>\n"}, {"answer": ["the", " en", "d"]},
    {"answer": "\ud83d\ude00<|im_end|>", "split": "bytes"}, {"ids": [3, 4]}, {"answer": ""}])");
  const int32_t im_end = *DemoTokenizer()->SpecialTokenId("<|im_end|>");
  EXPECT_EQ(Text(rules[0].answer), "the end<|im_end|>\n");
  EXPECT_THAT(rules[0].answer, testing::Contains(im_end));
  EXPECT_EQ(Text(rules[1].answer), "the end");
  std::vector<int32_t> pieces = Ids("the");
  for (const char* piece : {" en", "d"}) {
    for (const int32_t id : Ids(piece)) pieces.push_back(id);
  }
  EXPECT_EQ(rules[1].answer, pieces);
  ASSERT_THAT(rules[2].answer, SizeIs(5));
  EXPECT_EQ(rules[2].answer[4], im_end);
  EXPECT_EQ(Text(rules[2].answer), "\xf0\x9f\x98\x80<|im_end|>");
  EXPECT_THAT(rules[3].answer, ElementsAre(3, 4));
  EXPECT_TRUE(rules[4].has_answer);
}

TEST(SimScriptTest, MistakesNameTheRuleAndTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "list of rules"},
      {R"([3])", "[0] is not an object"},
      {R"([{}, {"wen": ""}])", "[1].wen is no field"},
      {R"([{"when": 3}])", "[0].when is not a string"},
      {R"([{"length": -1}])", "[0].length is -1"},
      {R"([{"length": 1.5}])", "[0].length is 1.5"},
      {R"([{"delay": -0.5}])", "[0].delay is -0.5"},
      {R"([{"step_delay": "1"}])", "[0].step_delay is"},
      {R"([{"fault": "boom"}])", "[0].fault is \"boom\""},
      {R"([{"answer": 3}])", "[0].answer is not a text"},
      {R"([{"answer": "a", "length": 3}])", "[0].answer excludes"},
      {R"([{"answer": "a", "ids": [3]}])", "[0].answer excludes"},
      {R"([{"answer": "a", "split": "words"}])", "[0].split is \"words\""},
      {R"([{"ids": [99999]}])", "[0].ids has 99999"}};
  for (const auto& [text, message] : cases) {
    const absl::Status status = Parse(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << text;
  }
  EXPECT_FALSE(ReadSimScript("models/demo/no.json", *DemoTokenizer()).ok());
}

TEST(SimScriptTest, TheFirstRuleThatFitsAnswers) {
  SimDriver driver(WithScript(R"([{"when": "cats and", "answer": "one"},
                                  {"when": "cats", "answer": "two"},
                                  {"when": "dogs", "length": 7}])"));
  EXPECT_EQ(Text(driver.Answer(Ask("about cats and")).ids), "one");
  const SimAnswer two = driver.Answer(Ask("about cats"));
  EXPECT_EQ(Text(two.ids), "two");
  EXPECT_EQ(two.last.finish, FinishReason::kStop);
  EXPECT_THAT(driver.Answer(Ask("about dogs")).ids, SizeIs(7));
  EXPECT_EQ(driver.Answer(Ask("about cats", 1)).last.finish, FinishReason::kLength);
  SequenceRequest longer = Ask("about cats", 30);
  longer.sampling.ignore_eos = true;
  const SimAnswer ignoring = driver.Answer(longer);
  EXPECT_THAT(ignoring.ids, SizeIs(30));
  EXPECT_EQ(Text(ignoring.ids).substr(0, 4), "two ");
}

TEST(SimScriptTest, AScriptedAnswerResumesWhereItWas) {
  const char* script = R"([{"answer": "one two three four", "split": "bytes"}])";
  const std::vector<int32_t> whole = SimDriver(WithScript(script)).Answer(Ask("hello")).ids;
  SequenceRequest request = Ask("hello");
  request.resumed_ids.assign(whole.begin(), whole.begin() + 6);
  EXPECT_EQ(Text(SimDriver(WithScript(script)).Answer(request).ids), "o three four");
  request.resumed_ids.erase(request.resumed_ids.begin() + 2);
  const absl::Status lost = SimDriver(WithScript(script)).Submit(request).status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(lost.message()), HasSubstr("resumed_ids[2]"));
}

TEST(SimScriptTest, ACrashComesWhenThePromptIsFirstWorkedOnOrAfterSoManyTokens) {
  int crashes = 0;
  SimReplicaOptions options = WithScript(R"([{"when": "now", "fault": "crash"},
                                             {"when": "later", "fault": "crash", "after": 3}])");
  options.crash = [&crashes] { ++crashes; };
  SimDriver driver(options);
  ASSERT_TRUE(driver.Submit(Ask("now")).ok());
  EXPECT_EQ(crashes, 0);
  driver.Step();
  EXPECT_EQ(crashes, 1);
  driver.RunUntilIdle();
  const uint64_t later = *driver.Submit(Ask("later"));
  while (driver.answers[later].ids.size() < 3) ASSERT_TRUE(driver.Step());
  EXPECT_EQ(crashes, 1);
  driver.Step();
  EXPECT_EQ(crashes, 2);
  driver.RunUntilIdle();
  driver.Answer(Ask("other"));
  EXPECT_EQ(crashes, 2);
}

TEST(SimScriptTest, ACrashCanCountTheTokensOfAll) {
  int crashes = 0;
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.crash_after_tokens = 10;
  options.crash = [&crashes] { ++crashes; };
  SimDriver driver(options);
  driver.Answer(SimDriver::Request(Ids("one"), 5));
  driver.Answer(SimDriver::Request(Ids("two"), 4));
  EXPECT_EQ(crashes, 0);
  driver.Answer(SimDriver::Request(Ids("three"), 1));
  EXPECT_EQ(crashes, 1);
}

TEST(SimScriptTest, AHangNeverEndsItsStepAndItsAgeGrows) {
  SimDriver driver(WithScript(R"([{"when": "stuck", "fault": "hang", "after": 2}])"));
  const uint64_t handle = *driver.Submit(Ask("stuck"));
  driver.RunUntilIdle();
  EXPECT_THAT(driver.answers[handle].ids, SizeIs(2));
  EXPECT_EQ(driver.last_step, absl::InfiniteDuration());
  EXPECT_EQ(driver.replica.Stats(driver.now + absl::Seconds(9)).step_age, absl::Seconds(9));
}

TEST(SimScriptTest, ANumericFaultEndsItsSequenceOnly) {
  SimDriver driver(WithScript(R"([{"when": "poison", "fault": "nan", "after": 2}])"));
  const uint64_t poison = *driver.Submit(Ask("poison"));
  const uint64_t other = *driver.Submit(SimDriver::Request(Ids("other"), 9));
  driver.RunUntilIdle();
  EXPECT_EQ(driver.answers[poison].last.finish, FinishReason::kNumeric);
  EXPECT_EQ(driver.answers[poison].last.error.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(driver.answers[poison].ids, SizeIs(2));
  EXPECT_THAT(driver.answers[other].ids, SizeIs(9));
}

TEST(SimScriptTest, AFaultStrikesAsOftenAsItMay) {
  SimDriver driver(WithScript(R"([{"when": "", "fault": "refuse", "times": 2, "answer": "a"}])"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(driver.Submit(Ask("x")).status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(Text(driver.Answer(Ask("x")).ids), "a");
}

TEST(SimScriptTest, DelaysMakeStepsLonger) {
  SimReplicaOptions options = WithScript(R"([{"when": "slow", "delay": 3, "step_delay": 0.5}])");
  options.timing = {absl::Milliseconds(1), absl::ZeroDuration(), 0};
  SimDriver driver(options);
  ASSERT_TRUE(driver.Submit(Ask("slow")).ok());
  driver.Step();
  EXPECT_EQ(driver.last_step, absl::Milliseconds(3501));
  driver.Step();
  EXPECT_EQ(driver.last_step, absl::Milliseconds(501));
}

}  // namespace
}  // namespace qwenserve
