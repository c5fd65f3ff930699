#include "services/common/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "services/common/version.h"

namespace qwenserve {

struct Flags::Flag {
  std::string name;
  Setter set;
  Getter get_json;
  std::vector<std::string> one_of;
  std::string command_line_value;
  CLI::Option* option = nullptr;
  bool required = false;
  bool is_set = false;

  std::string Variable() const {
    return "QWENSERVE_" + absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}}));
  }
};

struct Flags::Parser {
  explicit Parser(const std::string& description) : app(description) {}
  CLI::App app;
  std::string version;
  bool exits = false;  // --help or --version was answered
};

namespace {

template <typename Number, typename Parse>
auto NumberSetter(Number* target, Parse parse, const char* expected) {
  return [=](const std::string& text) -> absl::Status {
    Number value;
    if (!parse(text, &value)) {
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ", expected));
    }
    *target = value;
    return absl::OkStatus();
  };
}

// A scalar of the configuration file as it would stand on the command line.
absl::StatusOr<std::string> ScalarText(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean() || value.is_number()) return value.dump();
  if (!value.is_array()) {
    return absl::InvalidArgumentError("a string, number, boolean or array of these is needed");
  }
  std::vector<std::string> items;
  for (const Json& item : value) {
    if (item.is_structured()) return absl::InvalidArgumentError("nested arrays are not allowed");
    QS_ASSIGN_OR_RETURN(std::string text, ScalarText(item));
    items.push_back(std::move(text));
  }
  return absl::StrJoin(items, ",");
}

}  // namespace

Flags::Flags(std::string program, std::string description)
    : program_(std::move(program)), parser_(std::make_unique<Parser>(description)) {
  parser_->app.name(program_);
  parser_->version = absl::StrCat(program_, " ", Version());
  parser_->app.set_version_flag("--version", [this] { return parser_->version; });
  parser_->app.add_flag("--print-config", print_config_, "Print the values in force and exit");
  Add("config", &config_path_, "JSON file with flag names and values");
}

Flags::~Flags() = default;

void Flags::AddFlag(const std::string& name, const std::string& help, Setter set, Getter get_json) {
  auto flag = std::make_unique<Flag>();
  flag->name = name;
  flag->set = std::move(set);
  flag->get_json = std::move(get_json);
  flag->option = parser_->app.add_option("--" + name, flag->command_line_value, help);
  const Json value = Json::parse(flag->get_json());  // for --help; lists have no default
  if (!value.is_array()) {
    flag->option->default_str(value.is_string() ? value.get<std::string>() : value.dump());
  }
  flags_.push_back(std::move(flag));
}

void Flags::Add(const std::string& name, std::string* target, const std::string& help) {
  AddFlag(
      name, help,
      [target](const std::string& text) {
        *target = text;
        return absl::OkStatus();
      },
      [target] { return Json(*target).dump(); });
}

void Flags::Add(const std::string& name, bool* target, const std::string& help) {
  auto parse = [](const std::string& text, bool* value) { return absl::SimpleAtob(text, value); };
  AddFlag(name, help, NumberSetter(target, parse, "true or false"),
          [target] { return Json(*target).dump(); });
  // Given without a value it means true; --help shows what holds without the flag.
  flags_.back()->option->expected(0, 1)->default_str("true")->option_text(
      absl::StrCat("TEXT=", *target ? "true" : "false"));
}

void Flags::Add(const std::string& name, int* target, const std::string& help) {
  auto parse = [](const std::string& text, int* value) { return absl::SimpleAtoi(text, value); };
  AddFlag(name, help, NumberSetter(target, parse, "an integer in range"),
          [target] { return Json(*target).dump(); });
}

void Flags::Add(const std::string& name, int64_t* target, const std::string& help) {
  auto parse = [](const std::string& text, int64_t* value) {
    return absl::SimpleAtoi(text, value);
  };
  AddFlag(name, help, NumberSetter(target, parse, "an integer in range"),
          [target] { return Json(*target).dump(); });
}

void Flags::Add(const std::string& name, double* target, const std::string& help) {
  auto parse = [](const std::string& text, double* value) {
    return absl::SimpleAtod(text, value) && std::isfinite(*value);
  };
  AddFlag(name, help, NumberSetter(target, parse, "a number"),
          [target] { return Json(*target).dump(); });
}

void Flags::Add(const std::string& name, absl::Duration* target, const std::string& help) {
  AddFlag(
      name, help,
      [target](const std::string& text) {
        double seconds = 0;
        if (!absl::SimpleAtod(text, &seconds) || !std::isfinite(seconds) || seconds < 0) {
          return absl::InvalidArgumentError(
              absl::StrCat("'", text, "' is not a number of seconds >= 0"));
        }
        *target = absl::Seconds(seconds);
        return absl::OkStatus();
      },
      [target] { return Json(absl::ToDoubleSeconds(*target)).dump(); });
}

void Flags::Add(const std::string& name, std::vector<std::string>* target,
                const std::string& help) {
  AddFlag(
      name, help,
      [target](const std::string& text) {
        *target = absl::StrSplit(text, ',', absl::SkipWhitespace());
        return absl::OkStatus();
      },
      [target] { return Json(*target).dump(); });
}

void Flags::AddBytes(const std::string& name, int64_t* target, const std::string& help) {
  AddFlag(
      name, help,
      [target](const std::string& text) -> absl::Status {
        QS_ASSIGN_OR_RETURN(*target, ParseBytes(text));
        return absl::OkStatus();
      },
      [target] { return Json(*target).dump(); });
}

void Flags::AddVersionLine(const std::string& line) {
  absl::StrAppend(&parser_->version, "\n", line);
}

void Flags::Required() { flags_.back()->required = true; }

void Flags::OneOf(std::vector<std::string> values) { flags_.back()->one_of = std::move(values); }

absl::Status Flags::SetFrom(Flag& flag, const std::string& value, const std::string& source) {
  if (!flag.one_of.empty() &&
      std::find(flag.one_of.begin(), flag.one_of.end(), value) == flag.one_of.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": '", value, "' is not one of ", absl::StrJoin(flag.one_of, ", ")));
  }
  absl::Status status = flag.set(value);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", status.message()));
  }
  flag.is_set = true;
  return absl::OkStatus();
}

absl::Status Flags::ReadConfigFile() {
  QS_ASSIGN_OR_RETURN(Json config, ReadJsonFile(config_path_, 1 << 20));
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(config_path_, ": a JSON object is needed"));
  }
  for (const auto& [key, value] : config.items()) {
    const std::string source = absl::StrCat(config_path_, ": ", key);
    auto flag = std::find_if(flags_.begin(), flags_.end(),
                             [&key = key](const auto& f) { return f->name == key; });
    if (flag == flags_.end() || key == "config") {
      return absl::InvalidArgumentError(absl::StrCat(source, ": there is no such flag"));
    }
    absl::StatusOr<std::string> text = ScalarText(value);
    if (!text.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": ", text.status().message()));
    }
    if ((*flag)->is_set) continue;
    QS_RETURN_IF_ERROR(SetFrom(**flag, *text, source));
  }
  return absl::OkStatus();
}

absl::Status Flags::Parse(int argc, const char* const* argv) {
  // CLI11 reports by exceptions, --help and --version too; none of them leaves this function.
  try {
    parser_->app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) return absl::InvalidArgumentError(error.what());
    parser_->app.exit(error);
    parser_->exits = true;
    return absl::OkStatus();
  }
  for (auto& flag : flags_) {
    if (flag->option->count() > 0) {
      QS_RETURN_IF_ERROR(SetFrom(*flag, flag->command_line_value, "--" + flag->name));
    } else if (const char* value = std::getenv(flag->Variable().c_str()); value != nullptr) {
      QS_RETURN_IF_ERROR(SetFrom(*flag, value, flag->Variable()));
    }
  }
  if (!config_path_.empty()) QS_RETURN_IF_ERROR(ReadConfigFile());
  for (auto& flag : flags_) {
    if (flag->required && !flag->is_set && !print_config_) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag->name, " (or ", flag->Variable(), ") is needed"));
    }
  }
  return absl::OkStatus();
}

std::optional<int> Flags::ParseOrExit(int argc, const char* const* argv) {
  const absl::Status status = Parse(argc, argv);
  if (parser_->exits) return 0;
  if (!status.ok()) {
    std::cerr << program_ << ": " << status.message() << "\nTry --help.\n";
    return 2;
  }
  if (print_config_) {
    std::cout << ToJson() << "\n";
    return 0;
  }
  return std::nullopt;
}

std::string Flags::ToJson() const {
  std::vector<std::string> members;
  for (const auto& flag : flags_) {
    if (flag->name == "config") continue;
    members.push_back(absl::StrCat("  ", Json(flag->name).dump(), ": ", flag->get_json()));
  }
  return absl::StrCat("{\n", absl::StrJoin(members, ",\n"), "\n}");
}

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  absl::string_view number = text;
  while (!number.empty() && absl::ascii_isalpha(number.back())) number.remove_suffix(1);
  std::string unit = absl::AsciiStrToLower(text.substr(number.size()));
  int shift = -1;
  const char* const kUnits[] = {"", "k", "m", "g", "t"};
  for (int i = 0; i < 5; ++i) {
    const std::string prefix = kUnits[i];
    if (unit == prefix || unit == prefix + "b" || (i > 0 && unit == prefix + "ib")) shift = 10 * i;
  }
  double value = 0;
  if (shift < 0 || number.empty() || !absl::ascii_isdigit(number.front()) ||
      !absl::ascii_isdigit(number.back()) || !absl::SimpleAtod(number, &value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a number of bytes such as 512M or 4GiB"));
  }
  const double bytes = std::ldexp(value, shift);
  if (bytes >= std::ldexp(1.0, 62)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is too many bytes"));
  }
  return static_cast<int64_t>(bytes);
}

}  // namespace qwenserve
