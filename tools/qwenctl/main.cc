#include <algorithm>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"

namespace {

// Letters to put in, leave out or change to make one of the other (Levenshtein).
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// Whether `word` is a command. If not, says so, and which one is nearly that.
bool CheckCommand(const CLI::App& app, const std::string& word) {
  std::string nearest;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    const std::string& name = command->get_name();
    if (name == word) return true;
    const size_t distance = EditDistance(word, name);
    if (distance > 2 || 2 * distance > word.size()) continue;  // two letters of "foo" make it "top"
    if (nearest.empty() || distance < EditDistance(word, nearest)) nearest = name;
  }
  std::cerr << "qwenctl: there is no command '" << word << "'";
  if (!nearest.empty()) std::cerr << ", did you mean '" << nearest << "'?";
  std::cerr << " (all: qwenctl --help)" << std::endl;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("qwenctl: serve Qwen models and talk to them", "qwenctl");
  app.footer(
      "Exit status: 0 done, 1 failed, 2 wrong command line, 3 server unavailable, 4 request,\n"
      "model or file refused, 5 timed out, 6 server overloaded, 7 a limit of bench was missed, "
      "130\n"
      "interrupted. Results go to stdout, everything else to stderr.");
  app.set_version_flag("--version", qwenserve::VersionText());
  app.require_subcommand(1);
  int exit_code = qwenserve::kExitOk;
  qwenserve::AddServeCommand(app, &exit_code);
  qwenserve::AddChatCommand(app, &exit_code);
  qwenserve::AddCompleteCommand(app, &exit_code);
  qwenserve::AddTokenCommands(app, &exit_code);
  qwenserve::AddInfoCommands(app, &exit_code);
  qwenserve::AddDoctorCommand(app, &exit_code);
  qwenserve::AddQuantizeCommand(app, &exit_code);
  qwenserve::AddPerplexityCommand(app, &exit_code);
  qwenserve::AddBenchCommand(app, &exit_code);
  qwenserve::AddLiveCommands(app, &exit_code);
  if (argc > 1 && argv[1][0] != '-' && !CheckCommand(app, argv[1])) return qwenserve::kExitUsage;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? qwenserve::kExitOk : qwenserve::kExitUsage;
  }
  return exit_code;
}
