#include "services/common/logging.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "engine/base/json_reader.h"
#include "grpc/support/log.h"
#include "gtest/gtest.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

// What `write` logs, a line each.
template <typename Write>
std::vector<std::string> Lines(const Write& write) {
  gpr_log_verbosity_init();  // as gRPC does when it is first used
  testing::internal::CaptureStderr();
  write();
  spdlog::default_logger()->flush();
  return absl::StrSplit(testing::internal::GetCapturedStderr(), '\n', absl::SkipEmpty());
}

TEST(LoggingTest, OneObjectALine) {
  InitLogging("gateway", "0123", true);
  EXPECT_TRUE(LogsAreJson());
  const std::vector<std::string> lines = Lines([] {
    spdlog::warn("a \"quoted\"\nsecond line \x01 \xff end");
    {
      const LogScope scope("req-1", "0af7651916cd43dd8448eb211c80319c");
      spdlog::info("of a request");
      std::thread([] { spdlog::info("of another thread"); }).join();
    }
    const LogScope no_trace("req-2", "");
    spdlog::error("of a request without a trace");
    gpr_log(GPR_ERROR, "of gRPC");
  });
  ASSERT_EQ(lines.size(), 5u);
  std::vector<Json> parsed;
  for (const std::string& line : lines) {
    const absl::StatusOr<Json> json = ParseJson(line, "line");
    ASSERT_TRUE(json.ok()) << json.status();
    parsed.push_back(*json);
    EXPECT_EQ(parsed.back()["role"], "gateway");
    EXPECT_EQ(parsed.back()["instance"], "0123");
    absl::Time time;
    EXPECT_TRUE(
        absl::ParseTime(absl::RFC3339_full, std::string(parsed.back()["time"]), &time, nullptr));
  }
  EXPECT_EQ(parsed[0]["level"], "warn");
  EXPECT_EQ(parsed[0]["message"], "a \"quoted\"\nsecond line \x01 \xEF\xBF\xBD end");
  EXPECT_FALSE(parsed[0].contains("request_id"));
  EXPECT_EQ(parsed[1]["request_id"], "req-1");
  EXPECT_EQ(parsed[1]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
  EXPECT_FALSE(parsed[2].contains("trace_id"));
  EXPECT_EQ(parsed[3]["level"], "error");
  EXPECT_EQ(parsed[3]["request_id"], "req-2");
  EXPECT_FALSE(parsed[3].contains("trace_id"));
  EXPECT_EQ(parsed[4]["message"], "grpc: of gRPC");
}

TEST(LoggingTest, Text) {
  InitLogging("tokenizer");
  EXPECT_FALSE(LogsAreJson());
  const std::vector<std::string> lines = Lines([] {
    const LogScope scope("req-1", "");
    spdlog::warn("something");
    gpr_log(GPR_ERROR, "of gRPC");
  });
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_NE(lines[0].find("Z warning [tokenizer] something"), std::string::npos) << lines[0];
  EXPECT_NE(lines[1].find("Z error [tokenizer] grpc: of gRPC"), std::string::npos) << lines[1];
}

}  // namespace
}  // namespace qwenserve
