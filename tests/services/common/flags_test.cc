#include "services/common/flags.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FlagsTest : public ::testing::Test {
 protected:
  FlagsTest() : flags_("program", "a test") {
    flags_.Add("name", &name_, "a name");
    flags_.Add("drain-delay", &delay_, "seconds");
    flags_.Add("verbose", &verbose_, "a switch");
    flags_.Add("workers", &workers_, "addresses");
    flags_.Add("count", &count_, "a count");
    flags_.AddBytes("memory", &memory_, "bytes");
    flags_.Add("mode", &mode_, "a mode");
    flags_.OneOf({"fast", "exact"});
  }
  ~FlagsTest() override {
    for (const std::string& variable : variables_) unsetenv(variable.c_str());
  }

  void SetVariable(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    variables_.push_back(name);
  }
  std::string WriteConfig(const std::string& text) {
    const std::string path = ::testing::TempDir() + "flags_test.json";
    std::ofstream(path) << text;
    return path;
  }
  absl::Status Parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "program");
    return flags_.Parse(static_cast<int>(arguments.size()), arguments.data());
  }

  Flags flags_;
  std::string name_ = "default";
  absl::Duration delay_ = absl::Seconds(10);
  bool verbose_ = false;
  std::vector<std::string> workers_;
  int count_ = 3;
  int64_t memory_ = 0;
  std::string mode_ = "exact";
  std::vector<std::string> variables_;
};

TEST_F(FlagsTest, DefaultsStayWithoutASource) {
  ASSERT_TRUE(Parse({}).ok());
  EXPECT_EQ(name_, "default");
  EXPECT_EQ(delay_, absl::Seconds(10));
  EXPECT_EQ(count_, 3);
}

TEST_F(FlagsTest, FlagBeatsEnvironmentBeatsFile) {
  const std::string path =
      WriteConfig(R"({"name": "file", "drain-delay": 1, "count": 7, "verbose": true})");
  SetVariable("QWENSERVE_NAME", "environment");
  SetVariable("QWENSERVE_DRAIN_DELAY", "2.5");
  ASSERT_TRUE(Parse({"--name", "flag", "--config", path.c_str()}).ok());
  EXPECT_EQ(name_, "flag");
  EXPECT_EQ(delay_, absl::Milliseconds(2500));
  EXPECT_EQ(count_, 7);
  EXPECT_TRUE(verbose_);
}

TEST_F(FlagsTest, TheConfigFileMayBeNamedByTheEnvironment) {
  SetVariable("QWENSERVE_CONFIG", WriteConfig(R"({"name": "file"})"));
  ASSERT_TRUE(Parse({}).ok());
  EXPECT_EQ(name_, "file");
}

TEST_F(FlagsTest, ListsBytesAndSwitches) {
  const std::string path = WriteConfig(R"({"workers": ["a:1", "b:2"]})");
  ASSERT_TRUE(
      Parse({"--config", path.c_str(), "--memory", "4GiB", "--verbose", "--mode=fast"}).ok());
  EXPECT_THAT(workers_, ElementsAre("a:1", "b:2"));
  EXPECT_EQ(memory_, int64_t{4} << 30);
  EXPECT_TRUE(verbose_);
  EXPECT_EQ(mode_, "fast");
}

TEST_F(FlagsTest, ErrorsNameTheirSource) {
  EXPECT_THAT(std::string(Parse({"--count", "many"}).message()), HasSubstr("--count: 'many'"));
  EXPECT_THAT(std::string(Parse({"--mode", "slow"}).message()),
              HasSubstr("--mode: 'slow' is not one of fast, exact"));
  EXPECT_THAT(std::string(Parse({"--unknown", "1"}).message()), HasSubstr("--unknown"));
}

TEST_F(FlagsTest, BadVariableIsNamed) {
  SetVariable("QWENSERVE_DRAIN_DELAY", "-1");
  EXPECT_THAT(std::string(Parse({}).message()), HasSubstr("QWENSERVE_DRAIN_DELAY: '-1'"));
}

TEST_F(FlagsTest, UnknownKeyOfTheFileIsAnError) {
  const std::string path = WriteConfig(R"({"drain_delay": 1})");
  EXPECT_THAT(std::string(Parse({"--config", path.c_str()}).message()),
              HasSubstr("flags_test.json: drain_delay: there is no such flag"));
}

TEST_F(FlagsTest, NestedValueOfTheFileIsAnError) {
  const std::string path = WriteConfig(R"({"name": {"first": "x"}})");
  EXPECT_THAT(std::string(Parse({"--config", path.c_str()}).message()), HasSubstr("name:"));
}

TEST_F(FlagsTest, RequiredFlagNeedsAnySource) {
  std::string model;
  flags_.Add("model", &model, "a folder");
  flags_.Required();
  EXPECT_THAT(std::string(Parse({}).message()), HasSubstr("--model (or QWENSERVE_MODEL)"));
  SetVariable("QWENSERVE_MODEL", "folder");
  EXPECT_TRUE(Parse({}).ok());
}

TEST_F(FlagsTest, PrintedConfigIsTheConfigInForce) {
  ASSERT_TRUE(
      Parse({"--name", "a \"quoted\" name", "--workers", "a:1,b:2", "--drain-delay", "0.5"}).ok());
  const std::string path = WriteConfig(flags_.ToJson());
  name_ = "";
  workers_.clear();
  delay_ = absl::ZeroDuration();
  Flags again("program", "the same flags");
  again.Add("name", &name_, "");
  again.Add("drain-delay", &delay_, "");
  again.Add("verbose", &verbose_, "");
  again.Add("workers", &workers_, "");
  again.Add("count", &count_, "");
  again.AddBytes("memory", &memory_, "");
  again.Add("mode", &mode_, "");
  const char* arguments[] = {"program", "--config", path.c_str()};
  ASSERT_TRUE(again.Parse(3, arguments).ok());
  EXPECT_EQ(name_, "a \"quoted\" name");
  EXPECT_THAT(workers_, ElementsAre("a:1", "b:2"));
  EXPECT_EQ(delay_, absl::Milliseconds(500));
}

TEST(ParseBytesTest, Units) {
  EXPECT_EQ(ParseBytes("0").value(), 0);
  EXPECT_EQ(ParseBytes("4096").value(), 4096);
  EXPECT_EQ(ParseBytes("512M").value(), int64_t{512} << 20);
  EXPECT_EQ(ParseBytes("1.5g").value(), int64_t{3} << 29);
  EXPECT_EQ(ParseBytes("2TB").value(), int64_t{2} << 40);
  for (const char* bad : {"", "M", "-1", "4X", "1e30", "nan", "inf", "4 G", "9999999T"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace qwenserve
