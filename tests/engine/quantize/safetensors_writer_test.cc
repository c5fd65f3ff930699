#include "engine/quantize/safetensors_writer.h"

#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/base/json_reader.h"
#include "engine/base/mapped_file.h"
#include "engine/loader/safetensors.h"
#include "engine/quantize/output_folder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"

namespace qwenserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Content(const TensorPlan& plan) {
  return std::string(static_cast<size_t>(plan.bytes()), plan.name.back());
}

// name -> (shape, bytes) of a file, as the project's own reader sees it.
std::map<std::string, std::pair<std::vector<int64_t>, std::string>> ReadAll(
    const std::string& path) {
  const auto file = *MappedFile::Open(path);
  const auto entries = ParseSafetensors(file->bytes(), path);
  EXPECT_TRUE(entries.ok()) << entries.status();
  std::map<std::string, std::pair<std::vector<int64_t>, std::string>> all;
  for (const SafetensorsEntry& entry : *entries) {
    const auto data = *file->Slice(entry.offset, entry.bytes);
    all[entry.name] = {entry.shape, std::string(data.begin(), data.end())};
  }
  return all;
}

TEST(SafetensorsWriterTest, WritesOneFileWhateverTheOrderAndTheDtypes) {
  const std::string dir = FreshDir("writer_one");
  // Odd counts of two bytes before four: only reordering keeps all aligned without holes.
  const std::vector<TensorPlan> plans = {
      {"a", "BF16", {3}}, {"b", "F32", {2, 5}}, {"c", "F16", {1}}, {"d", "I32", {7}}};
  auto writer = SafetensorsWriter::Create(dir, plans, 1000);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (int i : {2, 0, 3, 1}) {
    const std::string content = Content(plans[i]);
    ASSERT_TRUE((*writer)->Write(plans[i].name, content.data(), plans[i].bytes()).ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto all = ReadAll(dir + "/model.safetensors");
  ASSERT_EQ(all.size(), 4u);
  for (const TensorPlan& plan : plans) {
    EXPECT_EQ(all.at(plan.name).first, plan.shape);
    EXPECT_EQ(all.at(plan.name).second, Content(plan));
  }
  EXPECT_FALSE(std::filesystem::exists(dir + "/model.safetensors.index.json"));
}

TEST(SafetensorsWriterTest, SpreadsOverFilesWithAnIndex) {
  const std::string dir = FreshDir("writer_many");
  std::vector<TensorPlan> plans;
  for (char name = 'a'; name <= 'e'; ++name) plans.push_back({std::string(1, name), "F32", {10}});
  plans.push_back({"f", "F32", {100}});  // larger than a file is to be
  auto writer = SafetensorsWriter::Create(dir, plans, 100);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const TensorPlan& plan : plans) {
    ASSERT_TRUE((*writer)->Write(plan.name, Content(plan).data(), plan.bytes()).ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
  const Json index = *ReadJsonFile(dir + "/model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 600);
  EXPECT_EQ(index["weight_map"]["b"], "model-00001-of-00004.safetensors");
  EXPECT_EQ(index["weight_map"]["c"], "model-00002-of-00004.safetensors");
  EXPECT_EQ(index["weight_map"]["f"], "model-00004-of-00004.safetensors");
  for (const TensorPlan& plan : plans) {
    const std::string file = index["weight_map"][plan.name].get<std::string>();
    EXPECT_EQ(ReadAll(dir + "/" + file).at(plan.name).second, Content(plan));
  }
}

TEST(SafetensorsWriterTest, AFullDiskIsToldBeforeAnythingIsComputed) {
  const std::string dir = FreshDir("writer_full");
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;  // behaves as a disk with that much room for a file
  signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto writer = SafetensorsWriter::Create(dir, {{"a", "F32", {100, 100}}}, 1'000'000);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(writer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(writer.status().message()), HasSubstr("model.safetensors: no room"));
}

TEST(SafetensorsWriterTest, RefusesANameTwice) {
  const auto writer = SafetensorsWriter::Create(FreshDir("writer_twice"),
                                                {{"a", "F32", {1}}, {"a", "F16", {1}}}, 9);
  EXPECT_EQ(writer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(writer.status().message()), HasSubstr("\"a\" would be written twice"));
}

TEST(OutputFolderTest, AppearsWhenItIsComplete) {
  const std::string base = FreshDir("output_folder"), out = base + "/out";
  std::filesystem::create_directory(base + "/from");
  for (const char* name : {"tokenizer.json", "a.py", ".hidden", "model-1.safetensors", "x.bin",
                           "config.json", "README.md", "model.safetensors.index.json"}) {
    WriteFile(base + "/from/" + name, name);
  }
  auto folder = OutputFolder::Create(out + "/");
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_TRUE((*folder)->WriteFile("config.json", "{}").ok());
  ASSERT_TRUE((*folder)->CopyCompanions(base + "/from").ok());
  EXPECT_FALSE(std::filesystem::exists(out));
  EXPECT_EQ(OutputFolder::Create(out).status().code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE((*folder)->Commit().ok());
  folder->reset();
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(out)) {
    names.push_back(file.path().filename().string());
  }
  EXPECT_THAT(names, testing::UnorderedElementsAre("config.json", "tokenizer.json", "a.py"));
  EXPECT_EQ(OutputFolder::Create(out).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(OutputFolderTest, LeavesNothingWithoutCommit) {
  const std::string base = FreshDir("output_folder_dropped");
  {
    const auto folder = OutputFolder::Create(base + "/out");
    ASSERT_TRUE(folder.ok());
    ASSERT_TRUE((*folder)->WriteFile("config.json", "{}").ok());
    ASSERT_TRUE(std::filesystem::exists(base + "/out.incomplete/config.json"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(base));
  EXPECT_EQ(OutputFolder::Create(base + "/no/such/out").status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace qwenserve
