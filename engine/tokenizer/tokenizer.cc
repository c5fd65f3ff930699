#include "engine/tokenizer/tokenizer.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/nfc.h"
#include "engine/tokenizer/pretokenizer.h"
#include "engine/tokenizer/vocab.h"

namespace qwenserve {
namespace {

bool FileExists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// Path of the file that tokenizer_config.json names as `extra_vocab_file`; empty when it names
// none.
absl::StatusOr<std::string> ExtraVocabPath(const std::string& model_dir) {
  const std::string config_path = absl::StrCat(model_dir, "/tokenizer_config.json");
  if (!FileExists(config_path)) return std::string();
  QS_ASSIGN_OR_RETURN(const Json config, ReadJsonFile(config_path));
  const auto it = config.is_object() ? config.find("extra_vocab_file") : config.end();
  if (it == config.end() || it->is_null()) return std::string();
  const std::string name = it->is_string() ? it->get<std::string>() : std::string();
  // The file comes with the checkpoint: a name that leads out of the folder is a trap.
  if (name.empty() || name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(config_path, ": extra_vocab_file ",
                                                   ShownJson(*it),
                                                   " is not a file name in the same folder"));
  }
  return absl::StrCat(model_dir, "/", name);
}

absl::StatusOr<Vocab> ReadVocab(const std::string& model_dir, std::string* path) {
  *path = absl::StrCat(model_dir, "/tokenizer.json");
  if (FileExists(*path)) return ReadJsonVocab(*path);
  *path = absl::StrCat(model_dir, "/qwen.tiktoken");
  if (!FileExists(*path)) {
    return absl::NotFoundError(
        absl::StrCat(model_dir, FileExists(model_dir) ? ": neither tokenizer.json nor qwen.tiktoken"
                                                      : ": no such model directory"));
  }
  QS_ASSIGN_OR_RETURN(const std::string extra_path, ExtraVocabPath(model_dir));
  return ReadTiktokenVocab(*path, extra_path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  std::string path;
  QS_ASSIGN_OR_RETURN(Vocab read, ReadVocab(model_dir, &path));
  auto vocab = std::make_unique<const Vocab>(std::move(read));
  absl::StatusOr<std::unique_ptr<Bpe>> bpe = Bpe::Create(*vocab);
  if (!bpe.ok()) {
    return absl::Status(bpe.status().code(), absl::StrCat(path, ": ", bpe.status().message()));
  }
  std::string hash = vocab->Hash();
  return absl::WrapUnique(new Tokenizer(std::move(vocab), std::move(bpe).value(), std::move(hash)));
}

Tokenizer::Tokenizer(std::unique_ptr<const Vocab> vocab, std::unique_ptr<const Bpe> bpe,
                     std::string hash)
    : vocab_(std::move(vocab)), bpe_(std::move(bpe)), hash_(std::move(hash)) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text) const {
  std::string storage;
  QS_ASSIGN_OR_RETURN(const absl::string_view normal, ToNfc(text, &storage));
  std::vector<int32_t> ids;
  ids.reserve(normal.size() / 3);
  const char* p = normal.data();
  const char* const end = p + normal.size();
  while (p != end) {
    const char* const piece_end = PieceEnd(p, end);
    bpe_->Encode(absl::string_view(p, static_cast<size_t>(piece_end - p)), &ids);
    p = piece_end;
  }
  return ids;
}

std::optional<int32_t> Tokenizer::SpecialTokenId(absl::string_view text) const {
  const auto it = vocab_->added.find(text);
  if (it == vocab_->added.end()) return std::nullopt;
  return it->second;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return HasToken(id) && vocab_->kinds[static_cast<size_t>(id)] == Vocab::Kind::kControl;
}

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return vocab_->tokens[static_cast<size_t>(id)];
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(vocab_->tokens.size()); }

const std::string& Tokenizer::hash() const { return hash_; }

}  // namespace qwenserve
