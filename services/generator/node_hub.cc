#include "services/generator/node_hub.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/grpc_settings.h"
#include "services/common/net/listen_socket.h"
#include "services/common/version.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kReminder = absl::Seconds(10);

}  // namespace

// The leader's end of one node's stream. Owns itself until gRPC is done with it.
class NodeHub::Stream final : public grpc::ServerBidiReactor<v1::NodeMessage, v1::NodeMessage>,
                              public NodeStream {
 public:
  static Stream* Start(NodeHub* hub, grpc::CallbackServerContext* context) {
    std::shared_ptr<Stream> stream(new Stream(hub, context));
    stream->self_ = stream;
    stream->OnStarted();
    return stream.get();
  }

  void OnReadDone(bool ok) override { OnRead(ok); }
  void OnWriteDone(bool ok) override { OnWritten(ok); }
  // Also when the hub goes: its server waits for every stream.
  void OnCancel() override {
    hub_->Forget(this);
    BeginClose();
  }
  void OnDone() override {
    hub_->Forget(this);
    OnEnded(absl::UnavailableError("the node has ended the connection"));
    std::shared_ptr<Stream> last = std::move(self_);
  }

 private:
  Stream(NodeHub* hub, grpc::CallbackServerContext* context)
      : NodeStream(Side::kLeader), hub_(hub), context_(context) {}

  void StartReading(v1::NodeMessage* message) override { StartRead(message); }
  void StartWriting(const v1::NodeMessage* message) override { StartWrite(message); }
  void EndStream() override { Finish(ToGrpcStatus(refusal_)); }
  void Cancel() override { context_->TryCancel(); }

  bool Take(const v1::NodeMessage& message) override {
    if (std::exchange(greeted_, true)) {
      if (message.has_leaving()) hub_->on_leaving_(node_rank_);
      return message.has_leaving();
    }
    node_rank_ = static_cast<int>(message.hello().node_rank());
    refusal_ = message.has_hello() ? hub_->Greet(message.hello(), self_)
                                   : absl::FailedPreconditionError("the first must be a hello");
    if (!refusal_.ok()) BeginClose();
    return true;
  }

  NodeHub* const hub_;
  grpc::CallbackServerContext* const context_;
  bool greeted_ = false;  // of the reading reaction, as is the next one
  int node_rank_ = 0;
  absl::Status refusal_;  // set before the stream can end
  std::shared_ptr<Stream> self_;
};

absl::StatusOr<std::unique_ptr<NodeHub>> NodeHub::Listen(const std::string& address, int num_nodes,
                                                         std::function<void(int)> on_leaving) {
  QS_RETURN_IF_ERROR(CheckHostPort(address));
  const size_t colon = address.rfind(':');
  const std::string host = colon == 0 ? "[::]" : address.substr(0, colon);
  std::unique_ptr<NodeHub> hub(new NodeHub(num_nodes, std::move(on_leaving)));
  grpc::ServerBuilder builder;
  ApplyServerSettings(builder, Exposure::kInternal);
  // Two leaders must not share a port.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int port = 0;
  builder.AddListeningPort(absl::StrCat(host, address.substr(colon)),
                           grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(hub.get());
  hub->server_ = builder.BuildAndStart();
  if (hub->server_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen for nodes at ", address));
  }
  hub->address_ = absl::StrCat(host, ":", port);
  return hub;
}

NodeHub::~NodeHub() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

grpc::ServerBidiReactor<v1::NodeMessage, v1::NodeMessage>* NodeHub::Join(
    grpc::CallbackServerContext* context) {
  return Stream::Start(this, context);
}

absl::Status NodeHub::Greet(const v1::NodeHello& hello, std::shared_ptr<NodeChannel> stream) {
  if (hello.version() != Version() || hello.num_nodes() != static_cast<uint32_t>(num_nodes_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "node ", hello.node_rank(), " is version ", hello.version(), " of ", hello.num_nodes(),
        " nodes, the leader is version ", std::string(Version()), " of ", num_nodes_, " nodes"));
  }
  if (hello.node_rank() < 1 || hello.node_rank() >= hello.num_nodes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("node-rank is ", hello.node_rank(), ", must be 1 to ", num_nodes_ - 1));
  }
  absl::MutexLock lock(&mutex_);
  if (begun_) return absl::FailedPreconditionError("the replica has begun; it must be restarted");
  const int node = static_cast<int>(hello.node_rank());
  if (!joined_.emplace(node, std::move(stream)).second) {
    return absl::AlreadyExistsError(absl::StrCat("there is a node ", node, " already"));
  }
  spdlog::info("node {} of {} has joined", node, num_nodes_);
  return absl::OkStatus();
}

void NodeHub::Forget(const NodeChannel* stream) {
  std::shared_ptr<NodeChannel> gone;  // not destroyed under the lock
  absl::MutexLock lock(&mutex_);
  for (auto it = joined_.begin(); it != joined_.end(); ++it) {
    if (it->second.get() != stream) continue;
    gone = std::move(it->second);
    joined_.erase(it);
    return;
  }
}

bool NodeHub::Complete() const { return static_cast<int>(joined_.size()) == num_nodes_ - 1; }

int NodeHub::num_waiting() {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(joined_.size());
}

std::vector<std::shared_ptr<NodeChannel>> NodeHub::WaitForAll() {
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(this, &NodeHub::Complete), kReminder)) {
    spdlog::info("waiting at {} for {} of {} nodes", address_, num_nodes_ - 1 - joined_.size(),
                 num_nodes_);
  }
  begun_ = true;
  std::vector<std::shared_ptr<NodeChannel>> channels;
  for (auto& [node, channel] : joined_) channels.push_back(channel);
  joined_.clear();
  return channels;
}

namespace {

// A node's end. Its owner's thread outlives gRPC's use of it and is the one to let go of the
// connection: gRPC would wait for itself if that happened in a reaction.
class LeaderStream final : public grpc::ClientBidiReactor<v1::NodeMessage, v1::NodeMessage>,
                           public NodeStream {
 public:
  LeaderStream(const std::shared_ptr<grpc::Channel>& channel, v1::NodeMessage hello)
      : NodeStream(Side::kNode), stub_(v1::Nodes::NewStub(channel)) {
    stub_->async()->Join(&context_, this);
    AddHold();  // things are started outside of reactions
    SendProto(std::move(hello));
    StartCall();
  }
  ~LeaderStream() override {
    BeginClose();
    Cancel();
    done_.WaitForNotification();
  }

  void OnReadDone(bool ok) override { OnRead(ok); }
  void OnWriteDone(bool ok) override { OnWritten(ok); }
  void OnDone(const grpc::Status& status) override {
    OnEnded(status.ok() ? absl::UnavailableError("the leader has ended the connection")
                        : FromGrpcStatus(status));
    done_.Notify();
  }

 private:
  void StartReading(v1::NodeMessage* message) override { StartRead(message); }
  void StartWriting(const v1::NodeMessage* message) override { StartWrite(message); }
  void EndStream() override { StartWritesDone(); }
  void ReleaseStream() override { RemoveHold(); }
  void Cancel() override { context_.TryCancel(); }

  const std::unique_ptr<v1::Nodes::Stub> stub_;
  grpc::ClientContext context_;
  absl::Notification done_;
};

}  // namespace

std::shared_ptr<NodeStream> JoinLeader(const std::string& address, int node_rank, int num_nodes) {
  const std::shared_ptr<grpc::Channel> channel = MakeWorkerChannel(address);
  while (!channel->WaitForConnected(absl::ToChronoTime(absl::Now() + kReminder))) {
    spdlog::info("waiting for the leader at {}", address);
  }
  v1::NodeMessage hello;
  hello.mutable_hello()->set_version(std::string(Version()));
  hello.mutable_hello()->set_node_rank(static_cast<uint32_t>(node_rank));
  hello.mutable_hello()->set_num_nodes(static_cast<uint32_t>(num_nodes));
  return std::make_shared<LeaderStream>(channel, std::move(hello));
}

}  // namespace qwenserve
