// qwenserve-gateway: text in, text out. Clients on one side, tokenizers and generators on the
// other.

#include <optional>
#include <string>
#include <vector>

#include "services/common/flags.h"
#include "services/common/server_main.h"
#include "services/gateway/gateway_role.h"

int main(int argc, char** argv) {
  qwenserve::ServerOptions server;
  qwenserve::GatewayOptions gateway;
  qwenserve::Flags flags("qwenserve-gateway", "Serves text generation to clients over gRPC.");
  qwenserve::AddServerFlags(flags, &server, 50051, 9090);
  flags.Add("tokenizers", &gateway.tokenizers,
            "HOST:PORT of the tokenizer workers, or file:PATH of a list of them, one per line;\n"
            "a name may stand for several; names and files are looked up again and again");
  flags.Required();
  flags.Add("generators", &gateway.generators, "The same for the generator workers");
  flags.Required();
  flags.Add("dns-server", &gateway.discovery.dns.server,
            "Numeric HOST:PORT to ask for names, instead of the servers in /etc/resolv.conf");
  flags.Add("max-request-time", &gateway.call.max_request_time,
            "Seconds after which a request ends with DEADLINE_EXCEEDED");
  if (std::optional<int> exit = flags.ParseOrExit(argc, argv)) return *exit;
  return qwenserve::RunServer("gateway", qwenserve::Exposure::kPublic, server,
                              [&](qwenserve::ServerContext& context) {
                                return qwenserve::GatewayRole::Create(gateway, context);
                              });
}
