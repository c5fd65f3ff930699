#include "engine/runtime/node_start.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr int64_t kSampleBytes = 4096;

}  // namespace

std::string NodeStartToJson(const NodeStart& start) {
  Json json;
  json["node"] = start.node;
  json["num_nodes"] = start.num_nodes;
  json["mode"] = start.mode == RankMode::kProcesses ? "processes" : "threads";
  json["checkpoint"] = start.checkpoint;
  json["ranks"] = Json::array();
  for (const RankSettings& rank : start.ranks) json["ranks"].push_back(SettingsToJson(rank));
  return json.dump();
}

absl::StatusOr<NodeStart> NodeStartFromJson(absl::string_view text) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseJson(text, "the leader's start"));
  const auto is = [&](const char* key, bool (Json::*test)() const noexcept) {
    return json.contains(key) && (json[key].*test)();
  };
  if (!json.is_object() || !is("node", &Json::is_number_integer) ||
      !is("num_nodes", &Json::is_number_integer) || !is("mode", &Json::is_string) ||
      !is("checkpoint", &Json::is_string) || !is("ranks", &Json::is_array)) {
    return absl::InvalidArgumentError(
        "the leader's start lacks something or is of another version");
  }
  NodeStart start;
  start.node = json["node"].get<int>();
  start.num_nodes = json["num_nodes"].get<int>();
  start.mode =
      json["mode"].get<std::string>() == "processes" ? RankMode::kProcesses : RankMode::kThreads;
  start.checkpoint = json["checkpoint"].get<std::string>();
  for (const Json& rank : json["ranks"]) {
    if (!rank.is_string()) return absl::InvalidArgumentError("the leader's start: \"ranks\"");
    QS_ASSIGN_OR_RETURN(RankSettings settings, SettingsFromJson(rank.get<std::string>()));
    start.ranks.push_back(std::move(settings));
  }
  const int count = static_cast<int>(start.ranks.size());
  bool sound = count > 0 && start.node > 0 && start.node < start.num_nodes;
  for (int i = 0; i < count && sound; ++i) {
    const RankSettings& rank = start.ranks[i];
    sound = rank.tp == count * start.num_nodes && rank.rank == start.node * count + i;
  }
  if (!sound) {
    return absl::InvalidArgumentError(
        absl::StrCat("the leader's start: impossible ranks of node ", start.node));
  }
  return start;
}

std::string CheckpointOutline(const Checkpoint& checkpoint) {
  Sha256 hash;
  for (const TensorRef& tensor : checkpoint.tensors()) {
    std::string text = absl::StrCat(tensor.name, " ", static_cast<int>(tensor.dtype), " ",
                                    tensor.is_int32, " ", tensor.bytes);
    for (int64_t size : tensor.shape) absl::StrAppend(&text, " ", size);
    hash.Update(absl::StrCat(text, "\n"));
    const auto* data = static_cast<const char*>(tensor.data);
    const int64_t sample = std::min(kSampleBytes, tensor.bytes);
    hash.Update(data, static_cast<size_t>(sample));
    hash.Update(data + tensor.bytes - sample, static_cast<size_t>(sample));
  }
  return hash.HexDigest();
}

}  // namespace qwenserve
