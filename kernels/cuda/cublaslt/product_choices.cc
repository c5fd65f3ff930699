#include "kernels/cuda/cublaslt/product_choices.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace qwenserve {
namespace {

// Raised when a line's meaning changes: older files then count as empty.
constexpr char kHeader[] = "qwenserve product choices 1";
constexpr int64_t kMostLines = 100000;  // far more than there are

std::string LineOf(absl::string_view identity, const ProductShape& shape,
                   const ProductChoice& choice) {
  std::string how = "own";
  if (!choice.own) {
    how = absl::StrJoin(choice.algo.data, ",", [](std::string* out, uint64_t word) {
      absl::StrAppend(out, absl::Hex(word));
    });
  }
  return absl::StrJoin(std::make_tuple(identity, WeightFormatName(shape.format), shape.out_features,
                                       shape.in_features, shape.rows, shape.has_bias ? 1 : 0, how),
                       "\t");
}

bool ParseChoice(absl::string_view how, ProductChoice* choice) {
  choice->own = how == "own";
  if (choice->own) return true;
  const std::vector<absl::string_view> words = absl::StrSplit(how, ',');
  if (words.size() != std::size(choice->algo.data)) return false;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!absl::SimpleHexAtoi(words[i], &choice->algo.data[i])) return false;
  }
  return true;
}

std::optional<WeightFormat> FormatOf(absl::string_view name) {
  for (int i = 0; i < kNumWeightFormats; ++i) {
    if (name == WeightFormatName(static_cast<WeightFormat>(i))) return static_cast<WeightFormat>(i);
  }
  return std::nullopt;
}

// `fields`: behind the identity.
bool ParseLine(absl::Span<const absl::string_view> fields, ProductShape* shape,
               ProductChoice* choice) {
  const std::optional<WeightFormat> format = FormatOf(fields[0]);
  if (!format.has_value()) return false;
  shape->format = *format;
  int bias = 0;
  if (!absl::SimpleAtoi(fields[1], &shape->out_features) ||
      !absl::SimpleAtoi(fields[2], &shape->in_features) ||
      !absl::SimpleAtoi(fields[3], &shape->rows) || !absl::SimpleAtoi(fields[4], &bias)) {
    return false;
  }
  if (shape->rows < 1 || shape->out_features < 1 || shape->in_features < 1) return false;
  if (bias != 0 && bias != 1) return false;
  shape->has_bias = bias == 1;
  return ParseChoice(fields[5], choice);
}

}  // namespace

ProductChoices::ProductChoices(std::string identity, std::string file,
                               std::function<void(absl::string_view)> warn)
    : identity_(std::move(identity)), file_(std::move(file)), warn_(std::move(warn)) {
  std::vector<std::string> others;
  if (!file_.empty() && !Read(&others, &choices_)) {
    choices_.clear();
    if (warn_) {
      warn_(absl::StrCat("\"", file_,
                         "\" is damaged or of another version: products are measured anew"));
    }
  }
}

const ProductChoice* ProductChoices::Find(const ProductShape& shape) const {
  const auto it = choices_.find(shape);
  return it == choices_.end() ? nullptr : &it->second;
}

void ProductChoices::Add(const ProductShape& shape, const ProductChoice& choice) {
  choices_[shape] = choice;
  if (!file_.empty()) Write();
}

bool ProductChoices::Read(std::vector<std::string>* others,
                          std::map<ProductShape, ProductChoice>* own) {
  std::ifstream in(file_);
  if (!in) return true;  // none so far
  std::string line;
  if (!std::getline(in, line) || line != kHeader) return false;
  for (int64_t lines = 0; std::getline(in, line); ++lines) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, '\t');
    if (fields.size() < 7 || lines > kMostLines) return false;
    ProductShape shape;
    ProductChoice choice;
    if (!ParseLine(absl::MakeConstSpan(fields).last(6), &shape, &choice)) return false;
    const std::string identity =
        absl::StrJoin(absl::MakeConstSpan(fields).first(fields.size() - 6), "\t");
    if (identity == identity_) {
      own->emplace(shape, choice);
    } else {
      others->push_back(line);
    }
  }
  return true;
}

void ProductChoices::Write() {
  std::vector<std::string> lines = {kHeader};
  std::vector<std::string> others;
  std::map<ProductShape, ProductChoice> merged;
  if (Read(&others, &merged)) {
    lines.insert(lines.end(), others.begin(), others.end());
  } else {
    merged.clear();
  }
  for (const auto& [shape, choice] : choices_) merged[shape] = choice;
  for (const auto& [shape, choice] : merged) lines.push_back(LineOf(identity_, shape, choice));

  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file_).parent_path(), error);
  // Ranks are processes, or threads of one.
  const std::string unfinished =
      absl::StrCat(file_, ".", getpid(), ".", absl::Hex(reinterpret_cast<uintptr_t>(this)));
  std::ofstream out(unfinished, std::ios::trunc);
  out << absl::StrJoin(lines, "\n") << "\n";
  out.close();
  if (out) std::filesystem::rename(unfinished, file_, error);
  if (out && !error) return;
  std::remove(unfinished.c_str());
  if (!warned_ && warn_) {
    warn_(absl::StrCat("cannot write \"", file_, "\": the next start measures products anew"));
  }
  warned_ = true;
}

}  // namespace qwenserve
