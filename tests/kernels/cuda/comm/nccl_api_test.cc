// Finding the library: a stub in files and folders, and the real one where it is installed.
#include "kernels/cuda/comm/nccl_api.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/comm/nccl_communicator.h"
#include "tests/kernels/cuda/installed.h"

namespace qwenserve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

// A new folder with the stub at `place`, removed with the object.
class FolderWithStub {
 public:
  explicit FolderWithStub(const std::string& place) {
    std::string name = (fs::temp_directory_path() / "nccl_api_test_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    fs::create_directories((folder_ / place).parent_path());
    fs::create_symlink(QS_STUB_NCCL, folder_ / place);
  }
  ~FolderWithStub() { fs::remove_all(folder_); }
  std::string path() const { return folder_.string(); }

 private:
  fs::path folder_;
};

TEST(LoadNccl, TakesAFileOrAFolderAsPackagesHaveIt) {
  for (const char* place : {"libnccl.so.2", "lib/libnccl.so.2", "nvidia/nccl/lib/libnccl.so.2"}) {
    const FolderWithStub folder(place);
    const auto api = LoadNccl(folder.path());
    ASSERT_TRUE(api.ok()) << api.status();
    int version = 0;
    EXPECT_EQ(api->GetVersion(&version), kNcclSuccess);
    EXPECT_EQ(version, 22105);
    EXPECT_FALSE(api->has_windows());
  }
  EXPECT_TRUE(LoadNccl(QS_STUB_NCCL).ok());
}

TEST(LoadNccl, SaysWhatToInstallWhenThereIsNone) {
  for (const char* nowhere : {"/nowhere/libnccl.so.2", "/"}) {
    const absl::Status status = LoadNccl(nowhere).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("install libnccl.so.2 2.18.0 or later"), HasSubstr("libnccl2"),
                      HasSubstr("--nccl-library")));
  }
}

TEST(LoadNccl, RefusesAnotherLibraryAndAnOldOne) {
  EXPECT_THAT(std::string(LoadNccl("libm.so.6").status().message()),
              HasSubstr("\"libm.so.6\" has no ncclGetVersion"));
  setenv("QWENSERVE_TEST_NCCL_VERSION", "21705", 1);
  const absl::Status status = LoadNccl(QS_STUB_NCCL).status();
  unsetenv("QWENSERVE_TEST_NCCL_VERSION");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is version 2.17.5"));
}

TEST(NewNcclGroup, TellsAFailureOfTheLibrary) {
  const absl::Status status = NewNcclGroup(QS_STUB_NCCL).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("a stub"), HasSubstr("IFNAME")));
}

TEST(NcclVersionName, IsWrittenAsPeopleDo) {
  EXPECT_EQ(NcclVersionName(22809), "2.28.9");
  EXPECT_EQ(NcclVersionName(21000), "2.10.0");
  EXPECT_EQ(NcclVersionName(2708), "2.7.8");
}

TEST(RealNccl, IsFoundAndBeginsAGroup) {
  if (!HasNccl()) GTEST_SKIP() << "no NCCL on this machine";
  const auto api = LoadNccl(NcclForTests());
  ASSERT_TRUE(api.ok()) << api.status();
  int version = 0;
  ASSERT_EQ(api->GetVersion(&version), kNcclSuccess);
  EXPECT_GE(version, kNcclLeastVersion);
  EXPECT_EQ(api->has_windows(), version >= 22700);
  const auto id = NewNcclGroup(*api);
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(id->size(), sizeof(NcclUniqueId) + sizeof(int));
}

}  // namespace
}  // namespace qwenserve
