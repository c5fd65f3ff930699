#include "services/gateway/auth/api_keys.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "services/common/digest.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/auth/key_file.h"
#include "tests/services/common/test_client.h"

namespace qwenserve {
namespace {

std::string Line(const std::string& key, const std::string& tenant, const std::string& more = "") {
  return "{\"sha256\": \"" + ToHex(Sha256(key)) + "\", \"tenant\": \"" + tenant + "\"" + more +
         "}\n";
}

// A folder as Kubernetes mounts a Secret: a link to a link that is swapped.
class MountedFile {
 public:
  explicit MountedFile(const std::string& text)
      : folder_(testing::TempDir() + "/keys-" + std::to_string(getpid()) + "-" +
                std::to_string(++count_)) {
    EXPECT_EQ(mkdir(folder_.c_str(), 0700), 0);
    Swap(text);
    EXPECT_EQ(symlink("..data/keys", path().c_str()), 0);
  }
  std::string path() const { return folder_ + "/keys"; }
  void Swap(const std::string& text) {
    const std::string version = "version" + std::to_string(++versions_);
    EXPECT_EQ(mkdir((folder_ + "/" + version).c_str(), 0700), 0);
    std::ofstream(folder_ + "/" + version + "/keys") << text;
    EXPECT_EQ(symlink(version.c_str(), (folder_ + "/new").c_str()), 0);
    EXPECT_EQ(std::rename((folder_ + "/new").c_str(), (folder_ + "/..data").c_str()), 0);
  }

 private:
  static int count_;
  const std::string folder_;
  int versions_ = 0;
};
int MountedFile::count_ = 0;

absl::Status ParseError(const std::string& text) { return ParseKeyFile(text, "keys").status(); }

TEST(KeyFileTest, ReadsEveryMember) {
  const auto grants = ParseKeyFile(
      "# ours\n\n" +
          Line("k", "team-a",
               R"(, "models": ["a", "b"], "priority_max": 7, "expires": "2031-01-01T00:00:00Z",)"
               R"( "limits": {"requests_per_minute": 1, "tokens_per_minute": 2,)"
               R"( "concurrent_requests": 3})"),
      "keys");
  ASSERT_TRUE(grants.ok()) << grants.status();
  ASSERT_EQ(grants->size(), 1u);
  const KeyGrant& grant = *grants->front();
  EXPECT_EQ(grant.sha256, ToHex(Sha256("k")));
  EXPECT_EQ(grant.tenant, "team-a");
  EXPECT_EQ(grant.models, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(grant.priority_max, 7);
  EXPECT_EQ(grant.requests_per_minute, 1);
  EXPECT_EQ(grant.tokens_per_minute, 2);
  EXPECT_EQ(grant.concurrent_requests, 3);
  EXPECT_EQ(grant.expires, absl::FromUnixSeconds(1924992000));
}

TEST(KeyFileTest, NamesTheLineOfAnError) {
  const struct {
    std::string line;
    std::string says;
  } kCases[] = {
      {"{", "line 3"},
      {"[]", "object"},
      {"{\"tenant\": \"a\"}", "sha256: is needed"},
      {"{\"sha256\": \"" + std::string(64, 'a') + "\"}", "tenant: is needed"},
      {"{\"sha256\": \"sk-the-key-itself\", \"tenant\": \"a\"}", "64 hexadecimal"},
      {Line("k", "a b"), "tenant"},
      {Line("k", "a\\nb"), "tenant"},
      {Line("k", "a", ", \"model\": []"), "model: there is no such member"},
      {Line("k", "a", ", \"models\": []"), "models"},
      {Line("k", "a", ", \"models\": [1]"), "models"},
      {Line("k", "a", ", \"limits\": {\"requests\": 1}"), "limits.requests"},
      {Line("k", "a", ", \"limits\": {\"requests_per_minute\": -1}"), "requests_per_minute"},
      {Line("k", "a", ", \"limits\": {\"requests_per_minute\": 1.5}"), "requests_per_minute"},
      {Line("k", "a", ", \"limits\": {\"tokens_per_minute\": 18446744073709551615}"), "tokens"},
      {Line("k", "a", ", \"priority_max\": \"high\""), "priority_max"},
      {Line("k", "a", ", \"expires\": \"tomorrow\""), "expires"},
      {Line("first", "a"), "occurs in a line before"},
  };
  for (const auto& c : kCases) {
    const absl::Status status = ParseError(Line("first", "a") + "\n" + c.line);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.line;
    EXPECT_NE(std::string(status.message()).find("keys, line 3: "), std::string::npos) << status;
    EXPECT_NE(std::string(status.message()).find(c.says), std::string::npos) << status;
    EXPECT_EQ(std::string(status.message()).find("sk-the-key"), std::string::npos) << status;
  }
  EXPECT_FALSE(ParseError("# nobody\n").ok());
  EXPECT_FALSE(ParseError("").ok());
}

class ApiKeysTest : public testing::Test {
 protected:
  std::unique_ptr<ApiKeys> Make(const std::string& path) {
    auto keys = ApiKeys::Create(path, absl::Milliseconds(10), metrics_, [this] { return now_; });
    EXPECT_TRUE(keys.ok()) << keys.status();
    return *std::move(keys);
  }
  double Value(const std::string& series) {
    const std::string text = metrics_.Scrape();
    const size_t at = text.find("\n" + series + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
  }
  Metrics metrics_{"gateway"};
  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
};

TEST_F(ApiKeysTest, TellsWhoseKeyItIs) {
  const MountedFile file(Line("key-a", "team-a") + Line("key-b", "team-b"));
  const auto keys = Make(file.path());
  for (const char* header : {"Bearer key-b", "bearer key-b", "BEARER  key-b "}) {
    const auto grant = keys->Check(header);
    ASSERT_TRUE(grant.ok()) << header;
    EXPECT_EQ((*grant)->tenant, "team-b");
  }
}

TEST_F(ApiKeysTest, RefusesEverythingElseAndCountsWhy) {
  const MountedFile file(Line("key-a", "team-a") +
                         Line("old", "team-b", ", \"expires\": \"2020-01-01T00:00:00Z\""));
  const auto keys = Make(file.path());
  const struct {
    std::string header;
    const char* reason;
    const char* counted;
  } kCases[] = {
      {"", kReasonApiKeyMissing, "missing"},
      {"  ", kReasonApiKeyMissing, "missing"},
      {"key-a", kReasonApiKeyInvalid, "malformed"},
      {"Bearer", kReasonApiKeyInvalid, "malformed"},
      {"Bearer ", kReasonApiKeyInvalid, "malformed"},
      {"Basic a2V5LWE=", kReasonApiKeyInvalid, "malformed"},
      {"Bearer key-a2", kReasonApiKeyInvalid, "unknown"},
      {"Bearer key-", kReasonApiKeyInvalid, "unknown"},
      {"Bearer KEY-A", kReasonApiKeyInvalid, "unknown"},
      {"Bearer key-a key-a", kReasonApiKeyInvalid, "unknown"},
      {"Bearer " + ToHex(Sha256("key-a")), kReasonApiKeyInvalid, "unknown"},
      {"Bearer " + std::string(10000, 'x'), kReasonApiKeyInvalid, "unknown"},
      {"Bearer old", kReasonApiKeyInvalid, "expired"},
  };
  std::set<std::string> invalid;
  for (const auto& c : kCases) {
    const std::string series =
        std::string("qwenserve_gateway_auth_failures_total{reason=\"") + c.counted + "\"}";
    const double before = Value(series);
    const absl::Status status = keys->Check(c.header).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << c.header;
    EXPECT_EQ(ErrorReason(status), c.reason) << c.header;
    EXPECT_EQ(Value(series), before + 1) << c.header;
    if (ErrorReason(status) == kReasonApiKeyInvalid) invalid.insert(std::string(status.message()));
  }
  EXPECT_EQ(invalid.size(), 1u) << "the answer tells how near a key was";
}

TEST_F(ApiKeysTest, TakesNewFilesAndKeepsTheLastGoodOne) {
  MountedFile file(Line("one", "a"));
  const auto keys = Make(file.path());
  EXPECT_TRUE(keys->Check("Bearer one").ok());
  file.Swap(Line("two", "a"));
  EXPECT_TRUE(Eventually([&] { return keys->Check("Bearer two").ok(); }));
  EXPECT_FALSE(keys->Check("Bearer one").ok());

  const std::string failed = "qwenserve_file_reloads_total{file=\"api_keys\",result=\"failed\"}";
  EXPECT_EQ(Value(failed), 0);
  for (const std::string& bad : {std::string("nonsense"), std::string(), Line("x", "a b")}) {
    const double before = Value(failed);
    file.Swap(bad);
    EXPECT_TRUE(Eventually([&] { return Value(failed) > before; }));
    EXPECT_TRUE(keys->Check("Bearer two").ok());
  }
  ASSERT_EQ(std::remove(file.path().c_str()), 0);
  EXPECT_TRUE(keys->Check("Bearer two").ok());
  // Written in place of the link, as without Kubernetes.
  std::ofstream(file.path() + ".new") << Line("three", "a") << Line("four", "b");
  ASSERT_EQ(std::rename((file.path() + ".new").c_str(), file.path().c_str()), 0);
  EXPECT_TRUE(Eventually([&] { return keys->Check("Bearer three").ok(); }));
  EXPECT_EQ(Value("qwenserve_gateway_api_keys"), 2);
}

TEST_F(ApiKeysTest, DoesNotStartWithoutAGoodFile) {
  EXPECT_FALSE(ApiKeys::Create("/nowhere/keys", absl::Seconds(1), metrics_).ok());
  EXPECT_FALSE(ApiKeys::Create("/dev/zero", absl::Seconds(1), metrics_).ok());
  const MountedFile file("{}");
  EXPECT_FALSE(ApiKeys::Create(file.path(), absl::Seconds(1), metrics_).ok());
}

TEST_F(ApiKeysTest, AKeyEndsAtItsTime) {
  const MountedFile file(Line("key", "a", ", \"expires\": \"2027-01-15T08:00:00Z\""));
  const auto keys = Make(file.path());
  now_ = absl::FromUnixSeconds(1'799'999'999);
  EXPECT_TRUE(keys->Check("Bearer key").ok());
  now_ = absl::FromUnixSeconds(1'800'000'000);
  EXPECT_FALSE(keys->Check("Bearer key").ok());
}

}  // namespace
}  // namespace qwenserve
