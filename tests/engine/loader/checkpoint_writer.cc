#include "tests/engine/loader/checkpoint_writer.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/model/weight_map.h"
#include "gtest/gtest.h"
#include "kernels/dtype.h"

namespace qwenserve {

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return absl::StrCat(bytes, header, data);
}

std::string SafetensorsBytes(const std::vector<RawTensor>& tensors) {
  Json header = Json::object();
  header["__metadata__"] = {{"format", "pt"}};
  std::string data;
  for (const RawTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.data.size()}}};
    data += tensor.data;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return SafetensorsBytes(text, data);
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good()) << path;
}

std::vector<RawTensor> ModelTensors(const Json& json) {
  const ModelConfig config = *ParseModelConfig(json, "test");
  std::vector<RawTensor> tensors;
  std::set<std::string> seen;
  int next = 0;
  for (const WeightPart& part : WeightParts(config, *MakeShardPlan(config, 1, 0))) {
    if (!seen.insert(part.tensor).second) continue;
    RawTensor tensor{part.tensor, "BF16", part.shape, ""};
    int64_t count = 1;
    for (const int64_t size : part.shape) count *= size;
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t bits = FloatToBf16(static_cast<float>(next++ % 251 - 125) / 1024);
      tensor.data += static_cast<char>(bits & 0xff);
      tensor.data += static_cast<char>(bits >> 8);
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

namespace {

// A directory of this process alone, which goes with it.
class ProcessDir {
 public:
  ProcessDir() : path_(absl::StrCat(::testing::TempDir(), "/qwenserve_", getpid())) {}
  ~ProcessDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

}  // namespace

std::string FreshDir(const std::string& name) {
  static const ProcessDir parent;
  const std::string dir = absl::StrCat(parent.path(), "/", name);
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  return dir;
}

}  // namespace qwenserve
