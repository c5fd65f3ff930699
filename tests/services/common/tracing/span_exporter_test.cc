#include "services/common/tracing/span_exporter.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

namespace collector = opentelemetry::proto::collector::trace::v1;
using Wire = opentelemetry::proto::trace::v1::Span;

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 12000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

// A collector whose answers the test decides.
class FakeCollector final : public collector::TraceService::Service {
 public:
  using Answer = std::function<grpc::Status(int call, collector::ExportTraceServiceResponse*)>;

  explicit FakeCollector(Answer answer = nullptr, int port = 0) : answer_(std::move(answer)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeCollector() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Export(grpc::ServerContext*, const collector::ExportTraceServiceRequest* request,
                      collector::ExportTraceServiceResponse* response) override {
    int call = 0;
    {
      absl::MutexLock lock(&mutex_);
      call = calls_++;
    }
    const grpc::Status status = answer_ ? answer_(call, response) : grpc::Status::OK;
    absl::MutexLock lock(&mutex_);
    if (status.ok()) taken_.push_back(*request);
    return status;
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  int calls() {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }
  std::vector<collector::ExportTraceServiceRequest> taken() {
    absl::MutexLock lock(&mutex_);
    return taken_;
  }
  // Names, in the order in which they have come.
  std::vector<std::string> names() {
    std::vector<std::string> names;
    for (const auto& request : taken()) {
      for (const Wire& span : request.resource_spans(0).scope_spans(0).spans()) {
        names.push_back(span.name());
      }
    }
    return names;
  }

 private:
  const Answer answer_;
  int port_ = 0;
  absl::Mutex mutex_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<collector::ExportTraceServiceRequest> taken_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

// A port whose first connection gets HTTP/2 settings and never anything more, as if its machine had
// vanished.
class VanishedCollector {
 public:
  VanishedCollector() : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~VanishedCollector() { close(connection_); }
  int port() const { return port_; }

  // The connection stays, and the port is free for another one.
  void Vanish() {
    connection_ = accept(listener_, nullptr, nullptr);
    constexpr char kEmptySettings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
    send(connection_, kEmptySettings, sizeof(kEmptySettings), MSG_NOSIGNAL);
    close(listener_);
  }

 private:
  const int listener_;
  int connection_ = -1;
  int port_ = 0;
};

class SpanExporterTest : public testing::Test {
 protected:
  void Start(const std::string& address) {
    exporter_ = std::make_unique<SpanExporter>(
        address, nullptr, SpanExporter::Resource{{"service.name", "test"}}, settings_, metrics_);
  }
  void Add(int count, const std::string& prefix = "s") {
    for (int i = 0; i < count; ++i) {
      Wire span;
      span.set_name(absl::StrCat(prefix, i));
      exporter_->Add(std::move(span));
    }
  }
  int64_t Count(const std::string& result) {
    const std::string scrape = metrics_.Scrape();
    const std::string key = absl::StrCat("qwenserve_trace_spans_total{result=\"", result, "\"} ");
    const size_t at = scrape.find(key);
    return at == std::string::npos ? -1 : std::atoll(scrape.c_str() + at + key.size());
  }

  SpanExporter::Settings settings_ = {.max_queued = 100,
                                      .max_batch = 10,
                                      .interval = absl::Milliseconds(5),
                                      .timeout = absl::Seconds(60),
                                      .max_tries = 3,
                                      .first_backoff = absl::Milliseconds(1),
                                      .longest_backoff = absl::Milliseconds(2)};
  Metrics metrics_{"gateway"};
  std::unique_ptr<SpanExporter> exporter_;
};

TEST_F(SpanExporterTest, SendsBatchesInOrderAndSaysWhoSendsThem) {
  FakeCollector fake;
  Start(fake.address());
  Add(35);
  ASSERT_TRUE(Eventually([&] { return Count("sent") == 35; }));
  const std::vector<std::string> names = fake.names();
  ASSERT_EQ(names.size(), 35u);
  for (int i = 0; i < 35; ++i) EXPECT_EQ(names[i], absl::StrCat("s", i));
  for (const auto& request : fake.taken()) {
    EXPECT_LE(request.resource_spans(0).scope_spans(0).spans_size(), 10);
    const auto& resource = request.resource_spans(0).resource();
    EXPECT_EQ(resource.attributes(0).key(), "service.name");
    EXPECT_EQ(resource.attributes(0).value().string_value(), "test");
  }
  EXPECT_EQ(Count("dropped_queue_full"), 0);
}

TEST_F(SpanExporterTest, TriesAgainWhatMayHelp) {
  FakeCollector fake([](int call, collector::ExportTraceServiceResponse*) {
    if (call == 0) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "not yet");
    if (call == 1) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "busy");
    return grpc::Status::OK;
  });
  Start(fake.address());
  Add(1);
  ASSERT_TRUE(Eventually([&] { return Count("sent") == 1; }));
  EXPECT_EQ(fake.calls(), 3);
  EXPECT_EQ(fake.names(), std::vector<std::string>{"s0"});
}

TEST_F(SpanExporterTest, GivesUpAfterSoManyTriesAndGoesOn) {
  FakeCollector fake([](int call, collector::ExportTraceServiceResponse*) {
    return call < 3 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "no") : grpc::Status::OK;
  });
  Start(fake.address());
  Add(1, "lost");
  ASSERT_TRUE(Eventually([&] { return Count("dropped_not_sent") == 1; }));
  Add(1, "kept");
  ASSERT_TRUE(Eventually([&] { return Count("sent") == 1; }));
  EXPECT_EQ(fake.names(), std::vector<std::string>{"kept0"});
}

TEST_F(SpanExporterTest, DoesNotRepeatWhatIsRefused) {
  FakeCollector fake([](int call, collector::ExportTraceServiceResponse* response) {
    if (call == 0) return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no");
    response->mutable_partial_success()->set_rejected_spans(2);
    return grpc::Status::OK;
  });
  Start(fake.address());
  Add(1);
  ASSERT_TRUE(Eventually([&] { return Count("dropped_not_sent") == 1; }));
  EXPECT_EQ(fake.calls(), 1);
  Add(10);
  ASSERT_TRUE(Eventually([&] { return Count("sent") + Count("rejected") == 10; }));
  EXPECT_GE(Count("rejected"), 1);
}

// The first call hangs until the end; what else comes meanwhile waits up to the bound.
TEST_F(SpanExporterTest, ASlowCollectorCostsSpansAndNoTime) {
  absl::Notification release;
  FakeCollector fake([&](int call, collector::ExportTraceServiceResponse*) {
    if (call == 0) release.WaitForNotification();
    return grpc::Status::OK;
  });
  Start(fake.address());
  Add(1, "first");
  ASSERT_TRUE(Eventually([&] { return fake.calls() == 1; }));
  Add(130);
  EXPECT_EQ(Count("dropped_queue_full"), 30);
  EXPECT_EQ(Count("sent"), 0);
  release.Notify();
  ASSERT_TRUE(Eventually([&] { return Count("sent") == 101; }));
  EXPECT_EQ(fake.names().back(), "s99");
}

TEST_F(SpanExporterTest, ShutdownSendsWhatWaits) {
  FakeCollector fake;
  settings_.interval = absl::Hours(1);
  Start(fake.address());
  Add(7);
  exporter_->Shutdown(absl::Seconds(60));
  EXPECT_EQ(fake.names().size(), 7u);
  Add(1, "late");
  EXPECT_EQ(Count("dropped_not_sent"), 1);
  EXPECT_EQ(Count("sent"), 7);
}

TEST_F(SpanExporterTest, ShutdownDoesNotWaitForACollectorThatHangs) {
  absl::Notification release;
  FakeCollector fake([&](int, collector::ExportTraceServiceResponse*) {
    release.WaitForNotification();
    return grpc::Status::OK;
  });
  settings_.timeout = absl::Hours(1);
  Start(fake.address());
  Add(50);
  ASSERT_TRUE(Eventually([&] { return fake.calls() == 1; }));
  exporter_->Shutdown(absl::Milliseconds(50));  // an hour otherwise
  EXPECT_EQ(Count("sent"), 0);
  EXPECT_EQ(Count("dropped_not_sent"), 50);
  release.Notify();
}

TEST_F(SpanExporterTest, ACollectorThatVanishedIsLookedForAnew) {
  settings_.timeout = absl::Milliseconds(200);
  settings_.max_tries = 100;
  settings_.longest_backoff = absl::Milliseconds(50);
  VanishedCollector vanished;
  Start(absl::StrCat("127.0.0.1:", vanished.port()));
  Add(1);
  vanished.Vanish();
  FakeCollector successor(nullptr, vanished.port());
  ASSERT_EQ(successor.address(), absl::StrCat("127.0.0.1:", vanished.port()));
  EXPECT_TRUE(Eventually([&] { return Count("sent") == 1; }));
}

TEST_F(SpanExporterTest, NobodyThere) {
  settings_.first_backoff = settings_.longest_backoff = absl::Hours(1);
  Start("127.0.0.1:1");
  Add(20);
  exporter_.reset();  // does not wait for the next try
  EXPECT_EQ(Count("dropped_not_sent"), 20);
}

}  // namespace
}  // namespace qwenserve
