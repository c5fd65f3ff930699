#include <cstdlib>

#include "tools/qwenctl/commands.h"

namespace qwenserve {

void AddConnectionFlags(CLI::App& command, const std::string& whose, ConnectionOptions* options) {
  command.add_option("--address", options->address, whose + ", HOST:PORT")
      ->envname("QWENSERVE_ADDRESS")
      ->check(CheckAddress)
      ->capture_default_str();
  // Not by envname: a file on the command line may stand beside a key in the environment.
  if (const char* key = std::getenv("QWENSERVE_API_KEY")) options->api_key = key;
  CLI::Option* key = command.add_option(
      "--api-key", options->api_key,
      "Sent as a bearer token. All users of this machine see a command line (ps): better set "
      "QWENSERVE_API_KEY, or use --api-key-file");
  command.add_option("--api-key-file", options->api_key_file, "File that holds the key")
      ->excludes(key);
  // The servers' own certificate is QWENSERVE_TLS_CERT, and `serve` hands on its environment.
  CLI::Option* ca = command
                        .add_option("--tls-ca", options->tls_ca,
                                    "TLS: who must have signed the server's certificate, in PEM")
                        ->envname("QWENSERVE_CLIENT_TLS_CA");
  CLI::Option* cert =
      command.add_option("--tls-cert", options->tls_cert, "Certificate to show it, in PEM")
          ->envname("QWENSERVE_CLIENT_TLS_CERT")
          ->needs(ca);
  cert->needs(command.add_option("--tls-key", options->tls_key, "Its private key")
                  ->envname("QWENSERVE_CLIENT_TLS_KEY")
                  ->needs(cert));
  command
      .add_option("--tls-server-name", options->tls_server_name,
                  "Name in the server's certificate, where it is not the address")
      ->envname("QWENSERVE_CLIENT_TLS_SERVER_NAME")
      ->needs(ca);
}

}  // namespace qwenserve
