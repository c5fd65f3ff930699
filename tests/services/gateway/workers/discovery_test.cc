#include "services/gateway/workers/discovery.h"

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using Targets = std::vector<std::string>;

std::string TargetOf(const std::string& text) {
  const absl::StatusOr<WorkerAddress> address = ParseWorkerAddress(text);
  return address.ok() ? address->target : "error";
}

TEST(WorkerAddressTest, NumbersNeedNoLookUp) {
  EXPECT_EQ(TargetOf("10.0.0.1:50071"), "ipv4:10.0.0.1:50071");
  EXPECT_EQ(TargetOf("[fd00::1]:50071"), "ipv6:[fd00::1]:50071");
  EXPECT_EQ(TargetOf("[fe80::1%eth0]:50071"), "ipv6:[fe80::1%25eth0]:50071");
  EXPECT_EQ(TargetOf("unix:/run/generator"), "unix:/run/generator");
  const absl::StatusOr<WorkerAddress> name = ParseWorkerAddress("generators.svc:50071");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->host, "generators.svc");
  EXPECT_EQ(name->port, 50071);
  EXPECT_EQ(name->target, "");
}

TEST(WorkerAddressTest, MalformedOnesAreRefused) {
  for (const char* text : {"", "host", ":1", "host:", "host:0", "host:65536", "host:1x", "a b:1",
                           "[]:1", "[host]:1", "a:b:1", "host:-1", "\x01:1"}) {
    EXPECT_EQ(TargetOf(text), "error") << text;
  }
  EXPECT_FALSE(CheckWorkerSource("file:").ok());
  EXPECT_FALSE(CheckWorkerSource("host").ok());
  EXPECT_TRUE(CheckWorkerSource("file:/a").ok());
}

TEST(WorkerAddressTest, Lists) {
  const auto list = ParseWorkerList("# rack 1\n 10.0.0.1:1 # new\r\n\n\tname:2\n");
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ((*list)[0].target, "ipv4:10.0.0.1:1");
  EXPECT_EQ((*list)[1].host, "name");
  EXPECT_EQ(ParseWorkerList("a:1\nb\n").status().message(), "line 2: 'b' is not HOST:PORT");
  EXPECT_FALSE(ParseWorkerList("").ok());
  EXPECT_FALSE(ParseWorkerList("# none\n").ok());
  EXPECT_FALSE(ParseWorkerList("file:/another\n").ok());
  std::string many;
  for (int i = 0; i < 10001; ++i) many += "a:1\n";
  EXPECT_FALSE(ParseWorkerList(many).ok());
}

TEST(DnsClientTest, ServersAreNumeric) {
  EXPECT_TRUE(CheckDnsServer("").ok());
  EXPECT_TRUE(CheckDnsServer("127.0.0.1:5353").ok());
  EXPECT_TRUE(CheckDnsServer("[::1]:5353").ok());
  EXPECT_FALSE(CheckDnsServer("dns.example:53").ok());
}

class DiscoveryTest : public testing::Test {
 protected:
  DiscoveryTest() { std::filesystem::create_directories(folder_); }
  ~DiscoveryTest() override {
    discovery_.reset();
    std::filesystem::remove_all(folder_);
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
  }
  void Start(const std::vector<std::string>& sources) {
    DiscoverySettings settings;
    settings.file_interval = absl::Milliseconds(5);
    Discovery::Hooks hooks;
    hooks.on_targets = [this](const Targets& found) {
      absl::MutexLock lock(&mutex_);
      targets_ = found;
    };
    hooks.on_dns_failure = [] {};
    hooks.on_file_failure = [this] {
      absl::MutexLock lock(&mutex_);
      ++failures_;
    };
    discovery_ = std::make_unique<Discovery>(sources, settings, std::move(hooks));
  }
  // What is known once it is `expected`, or after 20 s.
  Targets WaitFor(const Targets& expected) {
    for (int i = 0; i < 4000; ++i) {
      {
        absl::MutexLock lock(&mutex_);
        if (targets_ == expected) return targets_;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    absl::MutexLock lock(&mutex_);
    return targets_;
  }
  Targets AfterFailures(int count) {
    absl::MutexLock lock(&mutex_);
    failures_ = 0;
    auto failed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return failures_ >= count; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&failed), absl::Seconds(20)));
    return targets_;
  }

  const std::string folder_ = testing::TempDir() + "/discovery-" + std::to_string(getpid());
  absl::Mutex mutex_;
  Targets targets_ ABSL_GUARDED_BY(mutex_);
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<Discovery> discovery_;
};

TEST_F(DiscoveryTest, FixedAddressesAreSortedAndUnique) {
  Start({"10.0.0.2:1", "10.0.0.1:1", "10.0.0.2:1", "unix:/a"});
  const Targets expected = {"ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1", "unix:/a"};
  EXPECT_EQ(WaitFor(expected), expected);
}

TEST_F(DiscoveryTest, NumbersDoNotWaitForNames) {
  DiscoverySettings settings;
  settings.dns.server = "127.0.0.1:9";  // nobody answers there
  settings.dns.timeout = absl::Hours(1);
  absl::Mutex mutex;
  Targets found;
  Discovery::Hooks hooks;
  hooks.on_targets = [&](const Targets& targets) {
    absl::MutexLock lock(&mutex);
    found = targets;
  };
  hooks.on_dns_failure = [] {};
  hooks.on_file_failure = [] {};
  Discovery discovery({"10.0.0.1:1", "workers.invalid.example:1"}, settings, hooks);
  absl::MutexLock lock(&mutex);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return !found.empty(); };
  EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20)));
  EXPECT_EQ(found, Targets{"ipv4:10.0.0.1:1"});
}

TEST_F(DiscoveryTest, NamesThatNeverHadAnAddressAreAskedForSoon) {
  DiscoverySettings settings;
  settings.dns.server = "127.0.0.1:9";  // nobody answers there
  settings.dns.timeout = absl::Milliseconds(10);
  settings.min_ttl = absl::Hours(1);
  absl::Mutex mutex;
  int failures = 0;
  Discovery::Hooks hooks;
  hooks.on_targets = [](const Targets&) {};
  hooks.on_dns_failure = [&] {
    absl::MutexLock lock(&mutex);
    ++failures;
  };
  hooks.on_file_failure = [] {};
  Discovery discovery({"workers.invalid.example:1"}, settings, hooks);
  absl::MutexLock lock(&mutex);
  auto again = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return failures >= 3; };
  EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&again), absl::Seconds(30)));
}

TEST_F(DiscoveryTest, FilesAreWatched) {
  Write("list", "10.0.0.1:1\n");
  Start({"file:" + folder_ + "/list", "10.0.0.9:9"});
  Targets expected = {"ipv4:10.0.0.1:1", "ipv4:10.0.0.9:9"};
  EXPECT_EQ(WaitFor(expected), expected);
  // The same size, within the same second.
  Write("list", "10.0.0.2:1\n");
  expected = {"ipv4:10.0.0.2:1", "ipv4:10.0.0.9:9"};
  EXPECT_EQ(WaitFor(expected), expected);
  for (const char* bad : {"", "10.0.0.3\n", "# none\n", "10.0.0.3:1\nbad\n"}) {
    Write("list", bad);
    EXPECT_EQ(AfterFailures(2), expected) << bad;
  }
  std::filesystem::remove(folder_ + "/list");
  EXPECT_EQ(AfterFailures(2), expected);
  Write("list", "10.0.0.3:1\n10.0.0.4:1\n");
  expected = {"ipv4:10.0.0.3:1", "ipv4:10.0.0.4:1", "ipv4:10.0.0.9:9"};
  EXPECT_EQ(WaitFor(expected), expected);
}

// As a ConfigMap is mounted: list -> ..data/list, ..data -> ..version.
TEST_F(DiscoveryTest, SwappedLinksAreSeen) {
  namespace fs = std::filesystem;
  fs::create_directory(folder_ + "/..1");
  fs::create_directory(folder_ + "/..2");
  Write("..1/list", "10.0.0.1:1");
  Write("..2/list", "10.0.0.2:1");
  fs::create_directory_symlink("..1", folder_ + "/..data");
  fs::create_symlink("..data/list", folder_ + "/list");
  Start({"file:" + folder_ + "/list"});
  Targets expected = {"ipv4:10.0.0.1:1"};
  EXPECT_EQ(WaitFor(expected), expected);
  fs::create_directory_symlink("..2", folder_ + "/..data_tmp");
  fs::rename(folder_ + "/..data_tmp", folder_ + "/..data");
  expected = {"ipv4:10.0.0.2:1"};
  EXPECT_EQ(WaitFor(expected), expected);
}

TEST_F(DiscoveryTest, AFileThatComesLate) {
  Start({"file:" + folder_ + "/list"});
  EXPECT_EQ(AfterFailures(2), Targets());
  Write("list", "10.0.0.1:7\n");
  const Targets expected = {"ipv4:10.0.0.1:7"};
  EXPECT_EQ(WaitFor(expected), expected);
}

}  // namespace
}  // namespace qwenserve
