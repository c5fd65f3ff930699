#include "services/generator/sim_script.h"

#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// One rule's fields, with messages that say where they are.
class RuleReader {
 public:
  RuleReader(const Json& json, std::string where, const Tokenizer& tokenizer)
      : json_(json), where_(std::move(where)), tokenizer_(tokenizer) {}

  absl::StatusOr<SimRule> Read();

 private:
  absl::Status Error(absl::string_view field, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(where_, ".", field, " ", what));
  }
  absl::Status CheckKeys() const;
  absl::Status ReadText(const char* field, std::string* out) const;
  absl::Status ReadCount(const char* field, int64_t* out) const;
  absl::Status ReadSeconds(const char* field, absl::Duration* out) const;
  absl::Status ReadFault(SimRule* rule) const;
  absl::Status ReadAnswer(SimRule* rule) const;
  absl::Status ReadIds(std::vector<int32_t>* ids) const;
  absl::Status Encode(absl::string_view text, bool by_byte, std::vector<int32_t>* ids) const;
  absl::Status EncodePlain(absl::string_view text, bool by_byte, std::vector<int32_t>* ids) const;

  const Json& json_;
  const std::string where_;
  const Tokenizer& tokenizer_;
};

absl::Status RuleReader::CheckKeys() const {
  static constexpr std::array<const char*, 10> kKeys = {
      "when", "answer", "split", "ids", "length", "delay", "step_delay", "fault", "after", "times"};
  if (!json_.is_object()) return absl::InvalidArgumentError(where_ + " is not an object");
  for (const auto& [key, value] : json_.items()) {
    bool known = false;
    for (const char* name : kKeys) known |= key == name;
    if (!known) return Error(ShownText(key), "is no field of a rule");
  }
  return absl::OkStatus();
}

absl::Status RuleReader::ReadText(const char* field, std::string* out) const {
  const auto it = json_.find(field);
  if (it == json_.end()) return absl::OkStatus();
  if (!it->is_string()) return Error(field, "is not a string");
  *out = it->get<std::string>();
  return absl::OkStatus();
}

absl::Status RuleReader::ReadCount(const char* field, int64_t* out) const {
  const auto it = json_.find(field);
  if (it == json_.end()) return absl::OkStatus();
  if (!it->is_number_integer() || *it < 0 || *it > kMost) {
    return Error(field,
                 absl::StrCat("is ", ShownJson(*it), ", not a whole number from 0 to ", kMost));
  }
  *out = it->get<int64_t>();
  return absl::OkStatus();
}

absl::Status RuleReader::ReadSeconds(const char* field, absl::Duration* out) const {
  const auto it = json_.find(field);
  if (it == json_.end()) return absl::OkStatus();
  if (!it->is_number() || !(it->get<double>() >= 0)) {
    return Error(field, absl::StrCat("is ", ShownJson(*it), ", not seconds, 0 or more"));
  }
  *out = absl::Seconds(it->get<double>());
  return absl::OkStatus();
}

absl::Status RuleReader::ReadFault(SimRule* rule) const {
  std::string name;
  QS_RETURN_IF_ERROR(ReadText("fault", &name));
  QS_RETURN_IF_ERROR(ReadCount("after", &rule->after));
  QS_RETURN_IF_ERROR(ReadCount("times", &rule->times));
  static constexpr std::pair<const char*, SimFault> kFaults[] = {{"", SimFault::kNone},
                                                                 {"crash", SimFault::kCrash},
                                                                 {"hang", SimFault::kHang},
                                                                 {"nan", SimFault::kNumeric},
                                                                 {"refuse", SimFault::kRefuse}};
  for (const auto& [fault_name, fault] : kFaults) {
    if (name != fault_name) continue;
    rule->fault = fault;
    return absl::OkStatus();
  }
  return Error("fault",
               absl::StrCat("is \"", ShownText(name), "\", not one of crash, hang, nan, refuse"));
}

absl::Status RuleReader::ReadIds(std::vector<int32_t>* ids) const {
  const auto it = json_.find("ids");
  if (it == json_.end()) return absl::OkStatus();
  if (!it->is_array()) return Error("ids", "is not a list");
  for (const Json& id : *it) {
    if (!id.is_number_integer() || id < 0 || id >= tokenizer_.vocab_size()) {
      return Error("ids", absl::StrCat("has ", ShownJson(id), ", the tokenizer has ids 0 to ",
                                       tokenizer_.vocab_size() - 1));
    }
    ids->push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status RuleReader::ReadAnswer(SimRule* rule) const {
  const auto it = json_.find("answer");
  rule->has_answer = it != json_.end() || json_.contains("ids");
  if (rule->has_answer && (rule->length >= 0 || (it != json_.end() && json_.contains("ids")))) {
    return Error("answer", "excludes ids and length");
  }
  std::string split = "tokens";
  QS_RETURN_IF_ERROR(ReadText("split", &split));
  if (split != "tokens" && split != "bytes") {
    return Error("split", absl::StrCat("is \"", ShownText(split), "\", not tokens or bytes"));
  }
  if (it == json_.end()) return ReadIds(&rule->answer);
  const Json pieces = it->is_array() ? *it : Json::array({*it});
  for (const Json& piece : pieces) {
    if (!piece.is_string()) return Error("answer", "is not a text or a list of texts");
    QS_RETURN_IF_ERROR(Encode(piece.get<std::string>(), split == "bytes", &rule->answer));
  }
  return absl::OkStatus();
}

// Added tokens get their own ids, as a model writes them.
absl::Status RuleReader::Encode(absl::string_view text, bool by_byte,
                                std::vector<int32_t>* ids) const {
  size_t plain = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '<') continue;
    const size_t end = text.find('>', i);
    if (end == absl::string_view::npos) break;
    const std::optional<int32_t> id = tokenizer_.SpecialTokenId(text.substr(i, end + 1 - i));
    if (!id.has_value()) continue;
    QS_RETURN_IF_ERROR(EncodePlain(text.substr(plain, i - plain), by_byte, ids));
    ids->push_back(*id);
    plain = end + 1;
    i = end;
  }
  return EncodePlain(text.substr(plain), by_byte, ids);
}

absl::Status RuleReader::EncodePlain(absl::string_view text, bool by_byte,
                                     std::vector<int32_t>* ids) const {
  if (text.empty()) return absl::OkStatus();
  if (!by_byte) {
    const absl::StatusOr<std::vector<int32_t>> encoded = tokenizer_.Encode(text);
    if (!encoded.ok()) return Error("answer", encoded.status().message());
    ids->insert(ids->end(), encoded->begin(), encoded->end());
    return absl::OkStatus();
  }
  absl::flat_hash_map<char, int32_t> by_value;
  for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
    const absl::string_view bytes = tokenizer_.TokenBytes(id);
    if (bytes.size() == 1) by_value.emplace(bytes[0], id);
  }
  for (const char c : text) {
    const auto it = by_value.find(c);
    if (it == by_value.end()) {
      return Error("answer", absl::StrCat("has a byte without a token of its own: ",
                                          static_cast<int>(static_cast<unsigned char>(c))));
    }
    ids->push_back(it->second);
  }
  return absl::OkStatus();
}

absl::StatusOr<SimRule> RuleReader::Read() {
  SimRule rule;
  QS_RETURN_IF_ERROR(CheckKeys());
  QS_RETURN_IF_ERROR(ReadText("when", &rule.when));
  QS_RETURN_IF_ERROR(ReadCount("length", &rule.length));
  QS_RETURN_IF_ERROR(ReadSeconds("delay", &rule.delay));
  QS_RETURN_IF_ERROR(ReadSeconds("step_delay", &rule.step_delay));
  QS_RETURN_IF_ERROR(ReadFault(&rule));
  QS_RETURN_IF_ERROR(ReadAnswer(&rule));
  return rule;
}

}  // namespace

absl::StatusOr<std::vector<SimRule>> ParseSimScript(const Json& json, absl::string_view source,
                                                    const Tokenizer& tokenizer) {
  if (!json.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": a script is a list of rules"));
  }
  std::vector<SimRule> rules;
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string where = absl::StrCat(source, ": [", i, "]");
    QS_ASSIGN_OR_RETURN(SimRule rule, RuleReader(json[i], where, tokenizer).Read());
    rules.push_back(std::move(rule));
  }
  return rules;
}

absl::StatusOr<std::vector<SimRule>> ReadSimScript(const std::string& path,
                                                   const Tokenizer& tokenizer) {
  QS_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  return ParseSimScript(json, path, tokenizer);
}

}  // namespace qwenserve
