#include "engine/base/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

std::string WriteTemp(const std::string& name, const std::string& bytes) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

TEST(MappedFileTest, ReadsSlices) {
  auto file = MappedFile::Open(WriteTemp("mapped", "0123456789"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->size(), 10);
  auto slice = (*file)->Slice(3, 4);
  ASSERT_TRUE(slice.ok());
  EXPECT_EQ(std::string(slice->begin(), slice->end()), "3456");
  EXPECT_TRUE((*file)->Slice(10, 0).ok());
}

TEST(MappedFileTest, RefusesSlicesOutsideTheFile) {
  auto file = MappedFile::Open(WriteTemp("mapped_bounds", "0123456789"));
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  for (const auto& [offset, length] : {std::pair<int64_t, int64_t>{0, 11},
                                       {10, 1},
                                       {11, 0},
                                       {-1, 2},
                                       {2, -1},
                                       {kMax, kMax},
                                       {5, kMax},
                                       {kMax, 1}}) {
    const absl::Status status = (*file)->Slice(offset, length).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(status.message(), HasSubstr("10 bytes"));
  }
}

TEST(MappedFileTest, ReleasedPagesCanBeReadAgain) {
  std::string bytes(100000, 'a');
  bytes[50000] = 'b';
  auto file = MappedFile::Open(WriteTemp("mapped_release", bytes));
  EXPECT_EQ((*file)->bytes()[50000], 'b');
  (*file)->ReleasePages((*file)->bytes().data() + 1000, 90000);
  (*file)->ReleasePages((*file)->bytes().data() + 99999, 1);
  EXPECT_EQ((*file)->bytes()[50000], 'b');
}

TEST(MappedFileTest, AnEmptyFileHasNoBytes) {
  auto file = MappedFile::Open(WriteTemp("mapped_empty", ""));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->size(), 0);
  EXPECT_FALSE((*file)->Slice(0, 1).ok());
}

TEST(MappedFileTest, ErrorsNameThePath) {
  EXPECT_EQ(MappedFile::Open("/nonexistent/file").status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = MappedFile::Open(::testing::TempDir()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("not a regular file"));
}

TEST(MappedFileTest, APipeIsNotWaitedFor) {
  const std::string path = ::testing::TempDir() + "/mapped_pipe_" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(MappedFile::Open(path).status().message(), HasSubstr("not a regular file"));
  unlink(path.c_str());
}

}  // namespace
}  // namespace qwenserve
