#ifndef QWENSERVE_SERVICES_COMMON_FLAGS_H_
#define QWENSERVE_SERVICES_COMMON_FLAGS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace qwenserve {

// A server's flags. A value comes from the command line, else from the environment
// (`--drain-delay` is QWENSERVE_DRAIN_DELAY), else from the JSON object in the file of --config
// (keys are flag names without dashes), else it keeps what the target held before.
// An unknown flag or key is an error, so that a misspelt limit never goes unnoticed.
class Flags {
 public:
  Flags(std::string program, std::string description);
  ~Flags();
  Flags(const Flags&) = delete;
  Flags& operator=(const Flags&) = delete;

  // `target` holds the default and must outlive the object. `name` has no dashes.
  void Add(const std::string& name, std::string* target, const std::string& help);
  void Add(const std::string& name, bool* target, const std::string& help);
  void Add(const std::string& name, int* target, const std::string& help);
  void Add(const std::string& name, int64_t* target, const std::string& help);
  void Add(const std::string& name, double* target, const std::string& help);
  // Seconds, fractions allowed, >= 0.
  void Add(const std::string& name, absl::Duration* target, const std::string& help);
  // Comma-separated; an array in the file.
  void Add(const std::string& name, std::vector<std::string>* target, const std::string& help);
  // A count of bytes, as ParseBytes takes it.
  void AddBytes(const std::string& name, int64_t* target, const std::string& help);

  // One more line for --version.
  void AddVersionLine(const std::string& line);

  // The flag just added must get a value from somewhere.
  void Required();
  // The flag just added takes only these.
  void OneOf(std::vector<std::string> values);

  // Fills the targets. INVALID_ARGUMENT names the flag, variable or key. After --help or --version,
  // which it answers on stdout, the targets keep their defaults.
  absl::Status Parse(int argc, const char* const* argv);

  // Parse for a main(): nullopt to go on, else the exit status after --help, --version or
  // --print-config (0) or a usage error (2).
  std::optional<int> ParseOrExit(int argc, const char* const* argv);

  // The values in force as a JSON object.
  std::string ToJson() const;

 private:
  struct Flag;
  struct Parser;
  using Setter = std::function<absl::Status(const std::string&)>;
  using Getter = std::function<std::string()>;

  void AddFlag(const std::string& name, const std::string& help, Setter set, Getter get_json);
  absl::Status SetFrom(Flag& flag, const std::string& value, const std::string& source);
  absl::Status ReadConfigFile();

  std::string program_;
  std::string config_path_;
  bool print_config_ = false;
  std::vector<std::unique_ptr<Flag>> flags_;
  std::unique_ptr<Parser> parser_;
};

// "4096", "512M", "4GiB", "1.5G": k, M, G, T are powers of 1024 with or without "iB" or "B".
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_FLAGS_H_
