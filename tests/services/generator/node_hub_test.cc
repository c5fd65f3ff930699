// Nodes that meet over gRPC on loopback, without ranks.
#include "services/generator/node_hub.h"

#include <future>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "qwenserve/v1/nodes.grpc.pb.h"
#include "services/common/version.h"
#include "services/generator/node_stream.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

NodeMessage Plan(std::string bytes) {
  return {.kind = NodeMessage::Kind::kPlan, .bytes = std::move(bytes)};
}

class NodeHubTest : public testing::Test {
 protected:
  void Listen(int num_nodes) {
    auto hub = NodeHub::Listen("127.0.0.1:0", num_nodes);
    ASSERT_TRUE(hub.ok()) << hub.status();
    hub_ = *std::move(hub);
  }
  // Both ends of the channel of node 1 of two.
  void Connect() {
    Listen(2);
    node_ = JoinLeader(hub_->address(), 1, 2);
    leader_ = hub_->WaitForAll().front();
  }
  void WaitForWaiting(int count) {
    while (hub_->num_waiting() != count) std::this_thread::yield();
  }
  absl::Status RefusalOf(int node_rank, int num_nodes) {
    const auto node = JoinLeader(hub_->address(), node_rank, num_nodes);
    const absl::Status status = node->Receive().status();
    node->Close();
    return status;
  }

  std::unique_ptr<NodeHub> hub_;
  std::shared_ptr<NodeChannel> node_, leader_;
};

TEST_F(NodeHubTest, EveryKindOfMessageArrivesAsItWas) {
  Connect();
  using Kind = NodeMessage::Kind;
  for (Kind kind : {Kind::kStart, Kind::kDeviceGroup, Kind::kPlan, Kind::kPart, Kind::kPhase,
                    Kind::kProgress, Kind::kAbort}) {
    NodeMessage sent = {.kind = kind};
    if (kind == Kind::kPart || kind == Kind::kPhase || kind == Kind::kProgress) {
      sent.rank = 3;
      sent.number = 7;
    }
    if (kind == Kind::kPart) sent.begin = 100;
    if (kind != Kind::kPhase && kind != Kind::kProgress) sent.bytes = "bytes of it";
    for (const auto& [from, to] : {std::pair(leader_, node_), std::pair(node_, leader_)}) {
      ASSERT_TRUE(from->Send(sent).ok());
      const auto got = to->Receive();
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(got->kind, sent.kind);
      EXPECT_EQ(got->rank, sent.rank);
      EXPECT_EQ(got->number, sent.number);
      EXPECT_EQ(got->begin, sent.begin);
      EXPECT_EQ(got->bytes, sent.bytes);
    }
  }
}

TEST_F(NodeHubTest, MessagesKeepTheirOrderFromSeveralThreadsAndBothWays) {
  Connect();
  constexpr int kCount = 2000;
  const auto send = [](const std::shared_ptr<NodeChannel>& to) {
    for (int i = 0; i < kCount; ++i) {
      ASSERT_TRUE(to->Send(Plan(std::to_string(i) + std::string(i % 3000, 'x'))).ok());
    }
  };
  const auto receive = [](const std::shared_ptr<NodeChannel>& from) {
    for (int i = 0; i < kCount; ++i) {
      const auto got = from->Receive();
      ASSERT_TRUE(got.ok()) << got.status();
      ASSERT_EQ(got->bytes, std::to_string(i) + std::string(i % 3000, 'x'));
    }
  };
  std::thread threads[] = {std::thread(send, leader_), std::thread(send, node_),
                           std::thread(receive, leader_), std::thread(receive, node_)};
  for (std::thread& thread : threads) thread.join();
}

TEST_F(NodeHubTest, ASenderWaitsForAReaderThatIsBehind) {
  Connect();
  constexpr size_t kMessage = 4 << 20;
  constexpr size_t kCount = 3 * NodeStream::kMaxPendingBytes / kMessage;
  std::atomic<size_t> sent{0};
  std::thread sender([&] {
    for (size_t i = 0; i < kCount; ++i) {
      ASSERT_TRUE(leader_->Send(Plan(std::string(kMessage, 'x'))).ok());
      ++sent;
    }
  });
  // Both ends hold what they may, and gRPC some more, but not all.
  const NodeMessage first = *node_->Receive();
  EXPECT_LT(sent, kCount);
  for (size_t i = 1; i < kCount; ++i) {
    ASSERT_EQ(node_->Receive()->bytes.size(), kMessage);
  }
  sender.join();
}

TEST_F(NodeHubTest, WhatWasSentBeforeCloseArrives) {
  for (const bool leader_closes : {true, false}) {
    Connect();
    const auto closing = leader_closes ? leader_ : node_;
    const auto other = leader_closes ? node_ : leader_;
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(closing->Send(Plan(std::string(10000, 'x'))).ok());
    std::thread close([&] { closing->Close(); });
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(other->Receive().ok()) << i;
    EXPECT_EQ(other->Receive().status().code(), absl::StatusCode::kUnavailable);
    other->Close();
    close.join();
    EXPECT_EQ(closing->Send(Plan("late")).code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(closing->Receive().status().code(), absl::StatusCode::kUnavailable);
  }
}

// A node says why it goes, and goes; the leader may be slow to read.
TEST_F(NodeHubTest, TheLastWordsOfANodeThatIsGoneCanBeRead) {
  Connect();
  ASSERT_TRUE(node_->Send(Plan("last words")).ok());
  node_->Close();
  while (leader_->Send(Plan("nobody hears")).ok()) std::this_thread::yield();
  const auto got = leader_->Receive();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->bytes, "last words");
  EXPECT_EQ(leader_->Receive().status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(NodeHubTest, ANodeThatLetsGoOfItsChannelHasLeft) {
  Listen(2);
  auto node = JoinLeader(hub_->address(), 1, 2);
  WaitForWaiting(1);
  node.reset();
  WaitForWaiting(0);
}

TEST_F(NodeHubTest, CloseEndsAPendingReceive) {
  Connect();
  auto pending = std::async(std::launch::async, [&] { return node_->Receive().status(); });
  node_->Close();
  EXPECT_EQ(pending.get().code(), absl::StatusCode::kUnavailable);
}

TEST_F(NodeHubTest, RefusesWhatDoesNotBelong) {
  Listen(3);
  EXPECT_EQ(RefusalOf(1, 2).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(RefusalOf(3, 3).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RefusalOf(0, 3).code(), absl::StatusCode::kInvalidArgument);
  const auto first = JoinLeader(hub_->address(), 1, 3);
  WaitForWaiting(1);
  const absl::Status twice = RefusalOf(1, 3);
  EXPECT_EQ(twice.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("there is a node 1 already"));
  const auto second = JoinLeader(hub_->address(), 2, 3);
  EXPECT_EQ(hub_->WaitForAll().size(), 2);
  EXPECT_THAT(std::string(RefusalOf(2, 3).message()), HasSubstr("the replica has begun"));
  first->Close();
  second->Close();
}

TEST_F(NodeHubTest, RefusesANodeOfAnotherVersion) {
  Listen(2);
  const auto stub =
      v1::Nodes::NewStub(grpc::CreateChannel(hub_->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Join(&context);
  v1::NodeMessage message;
  message.mutable_hello()->set_version("0.0.0");
  message.mutable_hello()->set_node_rank(1);
  message.mutable_hello()->set_num_nodes(2);
  ASSERT_TRUE(stream->Write(message));
  EXPECT_FALSE(stream->Read(&message));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("node 1 is version 0.0.0"));
  EXPECT_EQ(hub_->num_waiting(), 0);
}

TEST_F(NodeHubTest, ANodeThatLeavesBeforeTheBeginningMayComeAgain) {
  Listen(2);
  const auto first = JoinLeader(hub_->address(), 1, 2);
  WaitForWaiting(1);
  first->Close();
  WaitForWaiting(0);
  const auto again = JoinLeader(hub_->address(), 1, 2);
  const auto leader = hub_->WaitForAll().front();
  ASSERT_TRUE(leader->Send(Plan("to the second")).ok());
  EXPECT_EQ(again->Receive()->bytes, "to the second");
  again->Close();
}

TEST_F(NodeHubTest, TwoLeadersDoNotShareAPort) {
  Listen(2);
  EXPECT_EQ(NodeHub::Listen(hub_->address(), 2).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(NodeHub::Listen("nowhere", 2).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace qwenserve
