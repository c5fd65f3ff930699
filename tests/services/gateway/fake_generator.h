#ifndef QWENSERVE_TESTS_SERVICES_GATEWAY_FAKE_GENERATOR_H_
#define QWENSERVE_TESTS_SERVICES_GATEWAY_FAKE_GENERATOR_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "qwenserve/v1/generator.grpc.pb.h"

namespace qwenserve {

// A generator that says what the test tells it to say. Real server, real session; the test plays
// the engine: it waits for a Submit and sends steps.
class FakeGenerator final : public v1::Generator::Service {
 public:
  struct Options {
    Options();
    v1::ServerHello hello;
    // Answer each Submit by itself with the text of its prompt, within its credit, until
    // max_tokens or the end of the prompt.
    bool echo = false;
    // Send heartbeats.
    bool heartbeats = true;
    int port = 0;
  };
  explicit FakeGenerator(Options options);
  FakeGenerator() : FakeGenerator(Options()) {}
  ~FakeGenerator() override { Kill(); }

  std::string address() const;
  int port() const { return port_; }
  void Kill();

  // Waits for the index-th Submit since the start. Fails the test after 20 s.
  v1::Submit WaitSubmit(size_t index);
  bool WaitCancelled(uint64_t sequence);
  // Until the sequence has got so much credit besides the initial one.
  bool WaitCredit(uint64_t sequence, uint32_t tokens);
  uint32_t credit(uint64_t sequence) const;
  size_t num_submits() const;

  // One engine step for these events.
  void Send(const v1::StepEvents& step);
  void SendTokens(uint64_t sequence, const std::string& text);
  void SendFinish(uint64_t sequence, v1::SequenceFinishReason reason);
  // A finish with this error.
  void SendError(uint64_t sequence, const absl::Status& error);
  void SendDraining(int seconds_left = 30);
  // Ends the session, not the server.
  void DropSession();
  void SilenceHeartbeats(bool silent);
  // What heartbeats tell, from now on; one is sent at once.
  void SetStats(const v1::EngineStats& stats);

  int num_sessions() const;
  int num_client_heartbeats() const;

 private:
  using Stream = grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>;

  grpc::Status Session(grpc::ServerContext* context, Stream* stream) override;
  void HandleMessage(const v1::SessionRequest& message);
  void Pump(uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // An event of the sequence, with its attempt.
  v1::SequenceEvent* AddEvent(uint64_t sequence, v1::StepEvents* step)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write(const v1::SessionResponse& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteHeartbeat() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Beat();

  struct Echo {
    std::string text;
    size_t sent = 0;
    uint64_t credit = 0;
    bool ends = false;  // at the end of the text rather than by max_tokens
  };

  const Options options_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable absl::Mutex mutex_;
  Stream* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  grpc::ServerContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool silent_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  int sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  int client_heartbeats_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::Submit> submits_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, bool> cancelled_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint32_t> credits_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint32_t> produced_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint32_t> attempts_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Echo> echoes_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<std::thread> beater_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GATEWAY_FAKE_GENERATOR_H_
