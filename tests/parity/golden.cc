#include "tests/parity/golden.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/mapped_file.h"
#include "engine/loader/safetensors.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

constexpr char kData[] = "tests/parity/data";  // tests run in the repository's root

template <typename T>
std::vector<T> Values(const MappedFile& file, const SafetensorsEntry& entry) {
  std::vector<T> values(entry.bytes / sizeof(T));
  std::memcpy(values.data(), file.Slice(entry.offset, entry.bytes)->data(), entry.bytes);
  return values;
}

}  // namespace

std::vector<std::string> GoldenModels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kData)) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Golden ReadGolden(const std::string& model) {
  Golden golden;
  golden.dir = absl::StrCat(kData, "/", model);
  auto file = MappedFile::Open(absl::StrCat(golden.dir, "/golden.safetensors"));
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return golden;
  auto entries = ParseSafetensors((*file)->bytes(), (*file)->path());
  EXPECT_TRUE(entries.ok()) << entries.status();
  if (!entries.ok()) return golden;
  for (const SafetensorsEntry& entry : *entries) {
    absl::string_view suffix = entry.name;
    if (entry.name == "ids") golden.ids = Values<int32_t>(**file, entry);
    if (entry.name == "positions") golden.positions = Values<int32_t>(**file, entry);
    const bool int8 = absl::ConsumePrefix(&suffix, "int8_cache.");
    if (!int8 && !absl::ConsumePrefix(&suffix, "logits.")) continue;
    Golden::Case one;
    EXPECT_TRUE(absl::SimpleAtoi(suffix, &one.prompt_tokens)) << entry.name;
    const std::vector<float> flat = Values<float>(**file, entry);
    for (int64_t row = 0; row < entry.shape[0]; ++row) {
      one.logits.emplace_back(flat.begin() + row * entry.shape[1],
                              flat.begin() + (row + 1) * entry.shape[1]);
    }
    (int8 ? golden.int8_cases : golden.cases).push_back(std::move(one));
  }
  EXPECT_FALSE(golden.cases.empty()) << golden.dir;
  return golden;
}

}  // namespace qwenserve
