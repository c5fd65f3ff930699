#include "services/generator/node_stream.h"

#include <utility>

namespace qwenserve {
namespace {

constexpr absl::Duration kLinger = absl::Seconds(1);

}  // namespace

v1::NodeMessage ToProto(const NodeMessage& message) {
  v1::NodeMessage proto;
  const auto rank = static_cast<uint32_t>(message.rank);
  switch (message.kind) {
    case NodeMessage::Kind::kStart:
      proto.mutable_start()->set_settings(message.bytes);
      break;
    case NodeMessage::Kind::kDeviceGroup:
      proto.mutable_device_group()->set_id(message.bytes);
      break;
    case NodeMessage::Kind::kPlan:
      proto.mutable_plan()->set_plan(message.bytes);
      break;
    case NodeMessage::Kind::kPart:
      proto.mutable_part()->set_rank(rank);
      proto.mutable_part()->set_collective(static_cast<uint32_t>(message.number));
      proto.mutable_part()->set_begin(message.begin);
      proto.mutable_part()->set_floats(message.bytes);
      break;
    case NodeMessage::Kind::kPhase:
      proto.mutable_phase()->set_rank(rank);
      proto.mutable_phase()->set_phase(static_cast<uint32_t>(message.number));
      break;
    case NodeMessage::Kind::kProgress:
      proto.mutable_progress()->set_rank(rank);
      proto.mutable_progress()->set_step(message.number);
      break;
    case NodeMessage::Kind::kAbort:
      proto.mutable_abort()->set_reason(message.bytes);
      break;
  }
  return proto;
}

absl::StatusOr<NodeMessage> FromProto(v1::NodeMessage proto) {
  using Kind = NodeMessage::Kind;
  switch (proto.message_case()) {
    case v1::NodeMessage::kStart:
      return NodeMessage{.kind = Kind::kStart,
                         .bytes = std::move(*proto.mutable_start()->mutable_settings())};
    case v1::NodeMessage::kDeviceGroup:
      return NodeMessage{.kind = Kind::kDeviceGroup, .bytes = proto.device_group().id()};
    case v1::NodeMessage::kPlan:
      return NodeMessage{.kind = Kind::kPlan,
                         .bytes = std::move(*proto.mutable_plan()->mutable_plan())};
    case v1::NodeMessage::kPart:
      return NodeMessage{.kind = Kind::kPart,
                         .rank = static_cast<int>(proto.part().rank()),
                         .number = proto.part().collective(),
                         .begin = proto.part().begin(),
                         .bytes = std::move(*proto.mutable_part()->mutable_floats())};
    case v1::NodeMessage::kPhase:
      return NodeMessage{.kind = Kind::kPhase,
                         .rank = static_cast<int>(proto.phase().rank()),
                         .number = proto.phase().phase()};
    case v1::NodeMessage::kProgress:
      return NodeMessage{.kind = Kind::kProgress,
                         .rank = static_cast<int>(proto.progress().rank()),
                         .number = proto.progress().step()};
    case v1::NodeMessage::kAbort:
      return NodeMessage{.kind = Kind::kAbort, .bytes = proto.abort().reason()};
    default:
      return absl::InvalidArgumentError("a message that nodes of this version do not send");
  }
}

bool NodeStream::Sendable() const {
  return broken_ || closing_ || outbox_bytes_ < kMaxPendingBytes;
}
// A node learns why the leader ended the stream only at its very end.
bool NodeStream::Receivable() const {
  if (deaf_ || !inbox_.empty()) return true;
  return side_ == Side::kNode ? ended_ : read_all_ || (closing_ && !reading_);
}
bool NodeStream::Flushed() const { return broken_ || (outbox_.empty() && !writing_); }
absl::Status NodeStream::Reason() const {
  return error_.ok() ? absl::UnavailableError("the connection has ended") : error_;
}

absl::Status NodeStream::Send(const NodeMessage& message) {
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &NodeStream::Sendable));
    if (broken_ || closing_) return Reason();
  }
  SendProto(ToProto(message));
  return absl::OkStatus();
}

void NodeStream::SendProto(v1::NodeMessage message) {
  {
    absl::MutexLock lock(&mutex_);
    if (broken_ || closing_) return;
    outbox_bytes_ += message.ByteSizeLong();
    outbox_.push_back(std::move(message));
  }
  Pump();
}

absl::StatusOr<NodeMessage> NodeStream::Receive() {
  v1::NodeMessage message;
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &NodeStream::Receivable));
    if (deaf_ || inbox_.empty()) return Reason();
    message = std::move(inbox_.front());
    inbox_.pop_front();
    inbox_bytes_ -= message.ByteSizeLong();
  }
  Pump();
  return FromProto(std::move(message));
}

void NodeStream::TellLeaving() {
  v1::NodeMessage message;
  message.mutable_leaving();
  SendProto(std::move(message));
}

void NodeStream::BeginClose() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  Pump();
}

void NodeStream::Close() {
  {
    absl::MutexLock lock(&mutex_);
    deaf_ = true;
  }
  BeginClose();
  {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &NodeStream::Flushed), kLinger);
    // Then it is the other one's turn to end.
    if (mutex_.AwaitWithTimeout(absl::Condition(this, &NodeStream::Ended), kLinger)) return;
    broken_ = true;
    Cancel();
  }
  Pump();
}

NodeStream::Actions NodeStream::Choose() {
  Actions actions;
  if (broken_) {
    outbox_.clear();
    outbox_bytes_ = 0;
  }
  // The leader's end is over with its last word; a node reads on, or it would not learn of the end.
  const bool wants_more = side_ == Side::kNode ? closing_ || inbox_bytes_ < kMaxPendingBytes
                                               : !closing_ && inbox_bytes_ < kMaxPendingBytes;
  if (!reading_ && !read_all_ && wants_more) reading_ = actions.read = true;
  if (!writing_ && !outbox_.empty()) {
    write_ = std::move(outbox_.front());
    outbox_.pop_front();
    outbox_bytes_ -= write_.ByteSizeLong();
    writing_ = actions.write = true;
  }
  const bool may_end = side_ == Side::kLeader || !read_all_;
  if (closing_ && !writing_ && !end_told_ && may_end) end_told_ = actions.end = true;
  if (side_ == Side::kNode && read_all_ && !writing_ && !released_) {
    released_ = actions.release = true;
  }
  return actions;
}

// One thread at a time starts things, so that nothing is started behind the end. Without the lock,
// since gRPC may run a reaction on this thread before it returns.
void NodeStream::Pump() {
  while (true) {
    Actions actions;
    {
      absl::MutexLock lock(&mutex_);
      if (pumping_) {
        again_ = true;
        return;
      }
      actions = Choose();
      if (!actions.any()) return;
      pumping_ = true;
    }
    if (actions.read) StartReading(&read_);
    if (actions.write) StartWriting(&write_);
    if (actions.end) EndStream();
    if (actions.release) ReleaseStream();
    absl::MutexLock lock(&mutex_);
    pumping_ = false;
    if (!std::exchange(again_, false)) return;
  }
}

void NodeStream::OnRead(bool ok) {
  const bool taken = ok && Take(read_);
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (!ok) {
      read_all_ = true;
      broken_ |= side_ == Side::kNode;
    } else if (!taken && !deaf_) {
      inbox_bytes_ += read_.ByteSizeLong();
      inbox_.push_back(std::move(read_));
    }
  }
  Pump();
}

void NodeStream::OnWritten(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) broken_ = true;
  }
  Pump();
}

void NodeStream::OnEnded(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (error_.ok()) error_ = why;
  ended_ = read_all_ = broken_ = true;
}

}  // namespace qwenserve
