#ifndef QWENSERVE_TOOLS_QWENCTL_COMMANDS_H_
#define QWENSERVE_TOOLS_QWENCTL_COMMANDS_H_

#include <string>

#include "CLI/CLI.hpp"
#include "tools/qwenctl/connection.h"
#include "tools/qwenctl/gateway_client.h"

namespace qwenserve {

// Each Add* puts its subcommands into `app`. When one of them was chosen, parsing runs it and
// leaves its exit status in `exit_code`, which must outlive the parsing.
void AddChatCommand(CLI::App& app, int* exit_code);
void AddCompleteCommand(CLI::App& app, int* exit_code);
void AddTokenCommands(CLI::App& app, int* exit_code);  // tokenize, detokenize
void AddInfoCommands(CLI::App& app, int* exit_code);   // models, status, version
void AddDoctorCommand(CLI::App& app, int* exit_code);
void AddServeCommand(CLI::App& app, int* exit_code);
void AddQuantizeCommand(CLI::App& app, int* exit_code);
void AddPerplexityCommand(CLI::App& app, int* exit_code);
void AddBenchCommand(CLI::App& app, int* exit_code);
void AddLiveCommands(CLI::App& app, int* exit_code);  // top, requests, log-level

// Version of this program, and what its GPU kernels were compiled for.
std::string VersionText();

// --address, --api-key, --api-key-file, --tls-ca, --tls-cert, --tls-key, --tls-server-name, with
// their environment. `whose`: what is at the address.
void AddConnectionFlags(CLI::App& command, const std::string& whose, ConnectionOptions* options);

// Those, and --model, --timeout, --output.
void AddClientFlags(CLI::App& command, ClientOptions* options);

// --max-tokens, --min-tokens, --n, --temperature, --top-p, --top-k, --min-p, --repetition-penalty,
// --presence-penalty, --frequency-penalty, --logit-bias, --seed, --stop, --logprobs, --ignore-eos.
// A flag that is not given stays unset, so the model's own default holds.
void AddGenerationFlags(CLI::App& command, v1::GenerationOptions* options);

// Validators of flags: what is wrong, or nothing. Messages of the protocol carry UTF-8 only, and an
// empty id would be read as 0.
std::string CheckText(const std::string& text);
std::string CheckTokenId(const std::string& id);
std::string CheckAddress(const std::string& address);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_COMMANDS_H_
