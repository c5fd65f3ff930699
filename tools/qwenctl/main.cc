#include "CLI/CLI.hpp"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"

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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? qwenserve::kExitOk : qwenserve::kExitUsage;
  }
  return exit_code;
}
