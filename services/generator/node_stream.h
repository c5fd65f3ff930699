#ifndef QWENSERVE_SERVICES_GENERATOR_NODE_STREAM_H_
#define QWENSERVE_SERVICES_GENERATOR_NODE_STREAM_H_

#include <cstddef>
#include <deque>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/parallel/node_channel.h"
#include "qwenserve/v1/nodes.pb.h"

namespace qwenserve {

v1::NodeMessage ToProto(const NodeMessage& message);
// INVALID_ARGUMENT for what is no message between nodes: a hello, or one of a later version.
absl::StatusOr<NodeMessage> FromProto(v1::NodeMessage message);

// A channel between nodes over a stream of gRPC, without gRPC: the queues between blocking calls
// and a reactor. The reactor starts what it is told, one thread at a time, and reports.
// Thread-safe.
class NodeStream : public NodeChannel {
 public:
  // What may wait in each direction before the sender waits.
  static constexpr size_t kMaxPendingBytes = size_t{64} << 20;

  absl::Status Send(const NodeMessage& message) override;
  absl::StatusOr<NodeMessage> Receive() override;
  // What was sent before still goes out, if the other node reads it within a second.
  void Close() override;
  // A node's: asks the leader to drain and to end the replica then. Never waits.
  void TellLeaving();

 protected:
  enum class Side { kLeader, kNode };
  explicit NodeStream(Side side) : side_(side) {}

  // What the reactor is told, without a lock held, but for Cancel.
  virtual void StartReading(v1::NodeMessage* message) = 0;
  virtual void StartWriting(const v1::NodeMessage* message) = 0;
  virtual void EndStream() = 0;    // this side sends no more
  virtual void ReleaseStream() {}  // a node's: nothing is started any more
  virtual void Cancel() = 0;

  // And what it reports.
  void OnStarted() { Pump(); }
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnEnded(const absl::Status& why);  // nothing follows

  void SendProto(v1::NodeMessage message);
  // Ends both directions without waiting; what has been received stays to be read.
  void BeginClose();
  // Whether the message is not for Receive.
  virtual bool Take(const v1::NodeMessage& message) { return false; }

 private:
  struct Actions {
    bool read = false, write = false, end = false, release = false;
    bool any() const { return read || write || end || release; }
  };
  void Pump();
  Actions Choose() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Sendable() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool Receivable() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool Flushed() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool Ended() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ended_; }
  absl::Status Reason() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const Side side_;
  absl::Mutex mutex_;
  std::deque<v1::NodeMessage> outbox_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::NodeMessage> inbox_ ABSL_GUARDED_BY(mutex_);
  size_t outbox_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t inbox_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool pumping_ ABSL_GUARDED_BY(mutex_) = false;  // some thread is in Pump
  bool again_ ABSL_GUARDED_BY(mutex_) = false;    // and has to look again
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_all_ ABSL_GUARDED_BY(mutex_) = false;  // nothing can be read any more
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;    // nothing can be written any more
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool deaf_ ABSL_GUARDED_BY(mutex_) = false;  // closed by its owner, who reads no more
  bool end_told_ ABSL_GUARDED_BY(mutex_) = false;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  v1::NodeMessage write_;  // the reactor's, while writing_
  v1::NodeMessage read_;   // the reactor's, while reading_
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_NODE_STREAM_H_
