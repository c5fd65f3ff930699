#include "engine/base/json_reader.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxShown = 120;

// Builds the document while it enforces what the library itself does not: the depth cap and unique
// keys. Containers on the path from the root live on `stack_`; a finished one is attached to its
// parent by End().
class DocumentBuilder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(size_t) override { return Start(Json::object()); }
  bool start_array(size_t) override { return Start(Json::array()); }
  bool end_object() override { return End(); }
  bool end_array() override { return End(); }

  bool key(string_t& name) override {
    Frame& frame = stack_.back();
    if (!frame.keys.insert(name).second) {
      return Fail(absl::StrCat("key \"", ShownText(name), "\" twice"));
    }
    frame.key = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    absl::string_view what = error.what();
    const size_t name_end = what.find("] ");  // of the library's own name for the error
    if (absl::StartsWith(what, "[") && name_end != absl::string_view::npos) {
      what.remove_prefix(name_end + 2);
    }
    // The library quotes what it was reading: perhaps somebody's prompt. The place is enough.
    what = what.substr(0, what.find("; last read:"));
    error_ = absl::StrCat("byte ", position, ": ", ShownText(what));
    return false;
  }

  Json Take() { return std::move(root_); }
  const std::string& error() const { return error_; }

 private:
  struct Frame {
    Json value;
    std::string key;  // of the member being read, in an object
    std::set<std::string> keys;
  };

  bool Fail(std::string message) {
    error_ = std::move(message);
    return false;
  }

  bool Add(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (Frame& frame = stack_.back(); frame.value.is_object()) {
      // The base container of ordered_json is a vector of pairs; key() has proved the key new, so
      // appending skips the linear search of operator[].
      frame.value.get_ref<Json::object_t&>().emplace_back(std::move(frame.key), std::move(value));
    } else {
      frame.value.push_back(std::move(value));
    }
    return true;
  }

  bool Start(Json empty) {
    if (stack_.size() >= kMaxDepth) return Fail(absl::StrCat("nested deeper than ", kMaxDepth));
    stack_.push_back(Frame{std::move(empty), {}, {}});
    return true;
  }

  bool End() {
    Json done = std::move(stack_.back().value);
    stack_.pop_back();
    return Add(std::move(done));
  }

  std::vector<Frame> stack_;
  Json root_;
  std::string error_ = "not JSON";
};

}  // namespace

std::string ShownText(absl::string_view text) {
  if (text.size() <= kMaxShown) return absl::Utf8SafeCEscape(text);
  size_t end = kMaxShown;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;  // not inside a character
  return absl::StrCat(absl::Utf8SafeCEscape(text.substr(0, end)), "...");
}

std::string ShownJson(const Json& value) {
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kMaxShown) text = absl::StrCat(text.substr(0, kMaxShown), "...");
  return text;
}

absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view source) {
  // The parser would take it for the end of the text and ignore what follows.
  if (const size_t zero = text.find('\0'); zero != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": bad JSON: byte ", zero, " is zero"));
  }
  DocumentBuilder builder;
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": bad JSON: ", builder.error()));
  }
  return builder.Take();
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path, size_t max_bytes) {
  std::error_code ignored;
  const std::filesystem::file_type type = std::filesystem::status(path, ignored).type();
  if (type != std::filesystem::file_type::regular &&
      type != std::filesystem::file_type::not_found) {
    // A pipe would be waited for.
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  const std::streamoff size = file.tellg();
  if (size < 0) return absl::NotFoundError(absl::StrCat(path, ": not a regular file"));
  if (static_cast<size_t>(size) > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": ", size, " bytes, more than the ", max_bytes, " allowed"));
  }
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) {
    return absl::DataLossError(absl::StrCat(path, ": short read of ", size, " bytes"));
  }
  return ParseJson(text, path);
}

}  // namespace qwenserve
