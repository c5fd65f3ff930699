#include <csignal>
#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/synchronization/mutex.h"
#include "grpcpp/server_builder.h"
#include "tools/bench/relay/latency_probe.h"
#include "tools/bench/relay/raw_relay.h"

namespace qwenserve {
namespace {

int RunRaw(const std::string& generator) {
  RawRelay relay(generator);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&relay);
  builder.SetMaxReceiveMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 100000);
  const auto server = builder.BuildAndStart();
  std::cout << "listening grpc 127.0.0.1:" << port << std::endl;
  server->Wait();
  return 0;
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as servers do
  CLI::App app("Parts of relay_bench.py, which runs them", "relay_bench");
  app.require_subcommand(1);
  std::string generator;
  CLI::App* raw = app.add_subcommand("raw", "One hop of plain gRPC before a generator");
  raw->add_option("--generator", generator, "HOST:PORT")->required();
  qwenserve::ProbeOptions options;
  CLI::App* latency = app.add_subcommand("latency", "Times of tokens through relays");
  latency->add_option("--tokenizer", options.tokenizer, "HOST:PORT")->required();
  latency->add_option("--step-ms", options.step_ms, "Of the source");
  latency->add_option("--streams", options.streams, "On one connection");
  latency->add_option("--tokens", options.tokens, "Of each stream");
  CLI11_PARSE(app, argc, argv);
  if (raw->parsed()) return qwenserve::RunRaw(generator);
  const absl::Status status = qwenserve::RunLatencyProbe(options);
  if (!status.ok()) std::cerr << "relay_bench: " << status.message() << std::endl;
  return status.ok() ? 0 : 1;
}
