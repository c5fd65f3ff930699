// What the makers of backends refuse.
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

TEST(CpuBackendOptionsTest, RefusesWhatItCannotDo) {
  EXPECT_EQ(MakeCpuBackend({.isa = "sse9"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCpuBackend({.num_threads = 0}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCpuBackend({.num_threads = 2, .cpus = {0}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CpuIsaNameTest, NamesTheBestThatTheMachineHas) {
  EXPECT_EQ(*CpuIsaName("portable"), "portable");
  EXPECT_EQ(*CpuIsaName("auto"), AvailableIsas().back());
  EXPECT_EQ(CpuIsaName("").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CudaBackendTest, SaysWhyThereIsNone) {
  const absl::StatusOr<std::unique_ptr<Backend>> made = MakeCudaBackend(CudaBackendOptions());
  if (made.ok()) GTEST_SKIP() << "there is one";
  EXPECT_TRUE(absl::IsUnimplemented(made.status()) || absl::IsNotFound(made.status()))
      << made.status();
  EXPECT_FALSE(made.status().message().empty());
}

}  // namespace
}  // namespace qwenserve
