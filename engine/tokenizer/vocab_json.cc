#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/pretokenizer.h"
#include "engine/tokenizer/unicode.h"
#include "engine/tokenizer/vocab.h"

namespace qwenserve {
namespace {

using TokenIds = absl::flat_hash_map<std::string, int32_t>;

// nullptr where `object` has no such member or it is null.
const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

bool IsString(const Json* value, absl::string_view text) {
  return value != nullptr && value->is_string() && value->get_ref<const std::string&>() == text;
}

bool IsTrue(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

absl::Status Unsupported(absl::string_view member, absl::string_view expected) {
  return absl::UnimplementedError(
      absl::StrCat(member, " is not what Qwen tokenizers have (", expected, ")"));
}

// Bytes of a token in the byte-level alphabet of GPT-2: printable bytes of Latin-1 stand for
// themselves, the other 68, in order, for U+0100 and up.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    bytes_.fill(-1);
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      bytes_[static_cast<size_t>(printable ? byte : next++)] = static_cast<int16_t>(byte);
    }
  }

  std::optional<std::string> Decode(absl::string_view token) const {
    std::string bytes;
    const char* p = token.data();
    const char* const end = p + token.size();
    while (p != end) {
      const char32_t code = ReadValidUtf8(&p);  // the JSON reader has checked the encoding
      if (code >= bytes_.size() || bytes_[code] < 0) return std::nullopt;
      bytes.push_back(static_cast<char>(bytes_[code]));
    }
    return bytes;
  }

 private:
  std::array<int16_t, 256 + 68> bytes_;
};

absl::Status CheckPretokenizer(const Json& root) {
  const Json* sequence = Find(root, "pre_tokenizer");
  if (sequence == nullptr || !IsString(Find(*sequence, "type"), "Sequence")) {
    return Unsupported("pre_tokenizer", "a Sequence of Split and ByteLevel");
  }
  const Json* steps = Find(*sequence, "pretokenizers");
  if (steps == nullptr || !steps->is_array() || steps->size() != 2 ||
      !IsString(Find((*steps)[0], "type"), "Split") ||
      !IsString(Find((*steps)[1], "type"), "ByteLevel")) {
    return Unsupported("pre_tokenizer.pretokenizers", "a Sequence of Split and ByteLevel");
  }
  const Json& split = (*steps)[0];
  const Json* pattern = Find(split, "pattern");
  const Json* regex = pattern == nullptr ? nullptr : Find(*pattern, "Regex");
  if (!IsString(regex, kSplitPattern)) {
    return Unsupported(
        absl::StrCat("the Split pattern ", regex == nullptr ? "" : ShownJson(*regex)),
        kSplitPattern);
  }
  if (!IsString(Find(split, "behavior"), "Isolated") || IsTrue(split, "invert")) {
    return Unsupported("pre_tokenizer's Split behaviour", "Isolated, not inverted");
  }
  const Json& byte_level = (*steps)[1];
  const Json* use_regex = Find(byte_level, "use_regex");  // the format's default is true
  if (IsTrue(byte_level, "add_prefix_space") || use_regex == nullptr || !use_regex->is_boolean() ||
      use_regex->get<bool>()) {
    return Unsupported("pre_tokenizer's ByteLevel", "no prefix space, use_regex false");
  }
  return absl::OkStatus();
}

absl::Status CheckPipeline(const Json& root) {
  const Json* normalizer = Find(root, "normalizer");
  if (normalizer == nullptr || !IsString(Find(*normalizer, "type"), "NFC")) {
    return Unsupported("normalizer", "NFC");
  }
  QS_RETURN_IF_ERROR(CheckPretokenizer(root));
  const Json* decoder = Find(root, "decoder");
  if (decoder == nullptr || !IsString(Find(*decoder, "type"), "ByteLevel")) {
    return Unsupported("decoder", "ByteLevel");
  }
  const Json* post = Find(root, "post_processor");
  if (post != nullptr && !IsString(Find(*post, "type"), "ByteLevel")) {
    return Unsupported("post_processor", "ByteLevel or none");
  }
  return absl::OkStatus();
}

absl::Status CheckModel(const Json& model) {
  if (!IsString(Find(model, "type"), "BPE")) return Unsupported("model.type", "BPE");
  for (const char* key : {"dropout", "unk_token"}) {
    if (Find(model, key) != nullptr) return Unsupported(absl::StrCat("model.", key), "null");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* value = Find(model, key);
    if (value != nullptr && !IsString(value, "")) {
      return Unsupported(absl::StrCat("model.", key), "none");
    }
  }
  if (IsTrue(model, "byte_fallback")) return Unsupported("model.byte_fallback", "false");
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const Json& root, Vocab* vocab) {
  const Json* tokens = Find(root, "added_tokens");
  if (tokens == nullptr) return absl::OkStatus();
  if (!tokens->is_array()) return absl::InvalidArgumentError("added_tokens is not an array");
  for (size_t i = 0; i < tokens->size(); ++i) {
    const Json* id = Find((*tokens)[i], "id");
    const Json* content = Find((*tokens)[i], "content");
    if (id == nullptr || !id->is_number_integer() || content == nullptr || !content->is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("added_tokens[", i, "] needs an integer id and a string content"));
    }
    const Vocab::Kind kind =
        IsTrue((*tokens)[i], "special") ? Vocab::Kind::kControl : Vocab::Kind::kAdded;
    const absl::Status status =
        vocab->Add(id->get<int64_t>(), content->get_ref<const std::string&>(), kind);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("added_tokens[", i, "]: ", status.message()));
    }
  }
  return absl::OkStatus();
}

// Fills `ids` by the spelling in the file, which the merges use. Added tokens come first into
// `vocab`: a vocabulary may list them again, spelled as they are.
absl::Status ReadRegularTokens(const Json& model, Vocab* vocab, TokenIds* ids) {
  const Json* entries = Find(model, "vocab");
  if (entries == nullptr || !entries->is_object()) {
    return absl::InvalidArgumentError("model.vocab is not an object");
  }
  const ByteAlphabet alphabet;
  ids->reserve(entries->size());
  for (const auto& [spelling, id] : entries->items()) {
    const std::string name = absl::StrCat("model.vocab \"", ShownText(spelling), "\"");
    if (!id.is_number_integer()) return absl::InvalidArgumentError(absl::StrCat(name, ": no id"));
    const auto added = vocab->added.find(spelling);
    if (added != vocab->added.end()) {
      if (added->second == id.get<int64_t>()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is id ", id.get<int64_t>(), " but added token ", added->second));
    }
    const std::optional<std::string> bytes = alphabet.Decode(spelling);
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " has a character outside the byte-level alphabet"));
    }
    const auto value = id.get<int64_t>();
    if (value >= 0 && value < static_cast<int64_t>(vocab->kinds.size()) &&
        vocab->kinds[static_cast<size_t>(value)] != Vocab::Kind::kNone) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": id ", value, " is taken"));
    }
    const absl::Status status = vocab->Add(value, *bytes, Vocab::Kind::kRegular);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
    }
    ids->emplace(spelling, static_cast<int32_t>(value));
  }
  return absl::OkStatus();
}

// A merge is "left right" or ["left", "right"], by the version of the file's writer.
std::optional<std::pair<std::string, std::string>> ReadMerge(const Json& merge) {
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');  // never a part of a token in this alphabet
    if (space == std::string::npos) return std::nullopt;
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  return std::nullopt;
}

absl::Status ReadMerges(const Json& model, const TokenIds& ids, Vocab* vocab) {
  const Json* merges = Find(model, "merges");
  if (merges == nullptr || !merges->is_array()) {
    return absl::InvalidArgumentError("model.merges is not an array");
  }
  vocab->merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const auto pair = ReadMerge((*merges)[i]);
    if (!pair.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("model.merges[", i, "] is not a pair"));
    }
    std::array<int32_t, 3> parts;
    const std::array<std::string, 3> spellings = {pair->first, pair->second,
                                                  absl::StrCat(pair->first, pair->second)};
    for (size_t part = 0; part < parts.size(); ++part) {
      const auto it = ids.find(spellings[part]);
      if (it == ids.end()) {
        return absl::InvalidArgumentError(absl::StrCat("model.merges[", i, "]: \"",
                                                       ShownText(spellings[part]),
                                                       "\" is not a token of the vocabulary"));
      }
      parts[part] = it->second;
    }
    vocab->merges.push_back({parts[0], parts[1], parts[2], static_cast<uint32_t>(i)});
  }
  return absl::OkStatus();
}

absl::StatusOr<Vocab> BuildVocab(const Json& root) {
  const Json* model = Find(root, "model");
  if (model == nullptr) return absl::InvalidArgumentError("no model");
  QS_RETURN_IF_ERROR(CheckModel(*model));
  QS_RETURN_IF_ERROR(CheckPipeline(root));
  Vocab vocab;
  vocab.whole_pieces_first = IsTrue(*model, "ignore_merges");
  QS_RETURN_IF_ERROR(ReadAddedTokens(root, &vocab));
  TokenIds ids;
  QS_RETURN_IF_ERROR(ReadRegularTokens(*model, &vocab, &ids));
  QS_RETURN_IF_ERROR(ReadMerges(*model, ids, &vocab));
  return vocab;
}

}  // namespace

absl::StatusOr<Vocab> ReadJsonVocab(const std::string& path) {
  QS_ASSIGN_OR_RETURN(const Json root, ReadJsonFile(path));
  absl::StatusOr<Vocab> vocab = BuildVocab(root);
  if (vocab.ok()) return vocab;
  return absl::Status(vocab.status().code(), absl::StrCat(path, ": ", vocab.status().message()));
}

}  // namespace qwenserve
