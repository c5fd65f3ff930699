#ifndef QWENSERVE_SERVICES_COMMON_GRPC_SETTINGS_H_
#define QWENSERVE_SERVICES_COMMON_GRPC_SETTINGS_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/channel_arguments.h"

namespace qwenserve {

enum class Exposure {
  kPublic,    // clients: small messages, few streams, connections renewed for balancing
  kInternal,  // the gateway's links to workers
};

struct StreamLimits {
  // Calls at a time that a client may have on one connection; others wait in the client.
  int max_concurrent_streams = 1024;
  // What a call gets to end when its connection is renewed: as long as a request may take.
  absl::Duration age_grace = absl::Minutes(10);
};

// Message sizes, keepalive, stream and memory limits of a server. `limits` are for kPublic.
void ApplyServerSettings(grpc::ServerBuilder& builder, Exposure exposure,
                         const StreamLimits& limits = {});

// gRPC serves reflection in every program that has its library linked; this takes it away again.
void TurnOffReflection(grpc::ServerBuilder& builder);

// A channel from the gateway to a worker. Each call makes a connection of its own, also for the
// same address: Prepare and Detokenize must not share one. A peer that vanished without a word is
// noticed after 15 s by keepalive (heartbeats notice sooner). `credentials`: null for plaintext.
std::shared_ptr<grpc::Channel> MakeWorkerChannel(
    const std::string& address, std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_GRPC_SETTINGS_H_
