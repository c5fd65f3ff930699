// qwenserve-gateway: text in, text out. Clients on one side, tokenizers and generators on the
// other.

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "services/common/flags.h"
#include "services/common/server_main.h"
#include "services/gateway/gateway_role.h"

namespace qwenserve {
namespace {

void AddWorkerFlags(Flags& flags, GatewayOptions* gateway) {
  flags.Add("tokenizers", &gateway->tokenizers,
            "HOST:PORT of the tokenizer workers, or file:PATH of a list of them, one per line;\n"
            "a name may stand for several; names and files are looked up again and again");
  flags.Required();
  flags.Add("generators", &gateway->generators, "The same for the generator workers");
  flags.Required();
  flags.Add("dns-server", &gateway->discovery.dns.server,
            "Numeric HOST:PORT to ask for names, instead of the servers in /etc/resolv.conf");
}

void AddLimitFlags(Flags& flags, GatewayOptions* gateway) {
  flags.Add("max-request-time", &gateway->call.max_request_time,
            "Seconds after which a request ends with DEADLINE_EXCEEDED");
  flags.Add("max-requests", &gateway->admission.max_requests,
            "Requests in flight; more are refused with RESOURCE_EXHAUSTED, as with the next three");
  flags.AddBytes("max-inflight-bytes", &gateway->admission.max_bytes,
                 "Memory that the requests in flight and their answers may take");
  flags.Add("max-waiting", &gateway->queue.max_waiting,
            "Requests that may wait for a generator; the newest of the lowest priority has to go");
  flags.Add("max-queue-wait", &gateway->queue.max_wait,
            "Seconds of predicted wait beyond which a request is refused; 0: only its deadline");
  flags.Add("slow-client-timeout", &gateway->call.slow_client_timeout,
            "Seconds after which a client that does not read its answer is dropped");
  flags.Add("credit-window", &gateway->call.credit_window,
            "Tokens that an answer may be ahead of its client; then it pauses");
  flags.Add("failover-wait", &gateway->call.failover_wait,
            "Seconds that an answer whose generator is lost waits for an equal one to go on at");
}

void AddReplicaFlags(Flags& flags, GatewayOptions* gateway) {
  flags.Add("slow-start", &gateway->health.slow_start,
            "Seconds after which a generator that comes, or comes back, gets all of its share");
  flags.Add("ejection-time", &gateway->health.ejection_time,
            "Seconds without work for a generator that is slower or fails more than the others;\n"
            "longer each time");
}

void AddHttpFlags(Flags& flags, HttpEdgeOptions* http) {
  flags.Add("http-listen", &http->listen,
            "HOST:PORT of the OpenAI HTTP API; port 0 takes a free one, empty turns it off");
  flags.Add("http-max-connections", &http->server.accept.max_connections,
            "HTTP connections in all");
  flags.Add("http-max-connections-per-peer", &http->server.accept.max_connections_per_peer,
            "HTTP connections from one address; 0 = no limit of its own");
  flags.AddBytes(
      "min-read-rate", &http->server.limits.min_read_rate,
      "Bytes a second that an HTTP client must read when --slow-client-timeout has passed");
  flags.Add("http-allowed-origins", &http->api.allowed_origins,
            "Origins whose web pages may call from a browser; * for all");
  flags.Add(
      "allowed-hosts", &http->api.allowed_hosts,
      "Names and addresses under which HTTP clients may call, besides loopback and\n"
      "--http-listen; * for any. By default any, but on loopback without API keys only those");
  flags.Add("no-ui", &http->api.no_ui, "Serve no chat page at / of the HTTP port");
}

void AddProxyFlags(Flags& flags, std::vector<std::string>* trusted, std::string* protocol) {
  flags.Add(
      "trusted-proxies", trusted,
      "IP addresses and networks (10.0.0.0/8) of proxies that are believed whom they speak\n"
      "for: by X-Forwarded-For over HTTP, and by the PROXY protocol where the next flag says");
  flags.Add("proxy-protocol", protocol,
            "Ports on which their connections begin with a PROXY header (v1 or v2): off, grpc,\n"
            "http or both");
  flags.OneOf({"off", "grpc", "http", "both"});
}

void AddSecurityFlags(Flags& flags, SecurityOptions* security) {
  flags.Add("api-keys", &security->api_keys,
            "File of API keys, one JSON object a line; without it anyone may call");
  flags.Add("access-log", &security->access_log,
            "File for one line of JSON a request, without content; - for stdout, or off");
  flags.Add("worker-tls-ca", &security->worker_tls.ca,
            "Connect to workers with TLS: their certificates must be signed by one of these");
  flags.Add("worker-tls-cert", &security->worker_tls.cert,
            "The gateway's own certificate for workers that ask for one");
  flags.Add("worker-tls-key", &security->worker_tls.key, "Its private key");
  flags.Add("worker-tls-names", &security->worker_tls.peer_names,
            "One of these DNS names or URIs must be in a worker's certificate");
  flags.Add("cache-salt-secret-file", &security->cache_salt_secret_file,
            "Secret, the same for all gateways, that keeps the cached prompts of tenants apart");
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  using namespace qwenserve;
  ServerOptions server;
  GatewayOptions gateway;
  HttpEdgeOptions http;
  std::vector<std::string> trusted_proxies;
  std::string proxy_protocol = "off";
  Flags flags("qwenserve-gateway", "Serves text generation to clients over gRPC and HTTP.");
  AddServerFlags(flags, &server, 50051, 9090);
  AddMetricsCompatFlag(flags, &gateway.metrics_compat);
  AddWorkerFlags(flags, &gateway);
  AddLimitFlags(flags, &gateway);
  AddReplicaFlags(flags, &gateway);
  flags.Add("max-concurrent-streams", &server.streams.max_concurrent_streams,
            "Calls at a time on one gRPC connection; a client's further ones wait in the client");
  AddHttpFlags(flags, &http);
  AddProxyFlags(flags, &trusted_proxies, &proxy_protocol);
  AddSecurityFlags(flags, &gateway.security);
  if (std::optional<int> exit = flags.ParseOrExit(argc, argv)) return *exit;
  // A connection that is renewed must not cut off what may still run on it.
  server.streams.age_grace = gateway.call.max_request_time + absl::Seconds(30);
  const absl::Status proxies =
      TrustProxies(trusted_proxies, proxy_protocol, &server, &gateway, &http);
  if (!proxies.ok()) {
    std::fprintf(stderr, "qwenserve-gateway: %s\n", std::string(proxies.message()).c_str());
    return 2;
  }
  gateway.max_concurrent_streams = server.streams.max_concurrent_streams;
  server.api_keys = !gateway.security.api_keys.empty();
  return RunServer("gateway", Exposure::kPublic, server, [&](ServerContext& context) {
    return GatewayRole::Create(gateway, http, context);
  });
}
