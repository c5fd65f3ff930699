#include "engine/parallel/plan_ring.h"

#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kRingPatience = absl::Seconds(60);

// Empty, short, as long as the ring, many times longer.
std::vector<std::string> Messages(size_t ring_bytes) {
  std::vector<std::string> messages;
  for (size_t bytes :
       {size_t{0}, size_t{1}, ring_bytes / 2, ring_bytes - 1, ring_bytes, 5 * ring_bytes + 3}) {
    std::string message(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) message[i] = static_cast<char>(i * 31 + bytes);
    messages.push_back(std::move(message));
  }
  for (int i = 0; i < 500; ++i) messages.push_back(std::string(i % 97, static_cast<char>(i)));
  return messages;
}

RankGroup::Options SmallRing() {
  RankGroup::Options options;
  options.ring_bytes = 1024;
  return options;
}

bool ReceivesAll(const std::shared_ptr<RankGroup>& group, int rank) {
  PlanReceiver receiver(group, rank);
  for (const std::string& expected : Messages(group->ring_bytes())) {
    auto message = receiver.Receive();
    if (!message.ok() || *message != expected) return false;
  }
  return true;
}

TEST(PlanRing, ThreadsGetEveryMessageInOrder) {
  auto group = RankGroup::Create(3, SmallRing());
  ASSERT_TRUE(group.ok());
  char ok[3] = {};
  std::thread one([&] { ok[1] = ReceivesAll(*group, 1); });
  std::thread two([&] { ok[2] = ReceivesAll(*group, 2); });
  PlanSender sender(*group, kRingPatience);
  for (const std::string& message : Messages((*group)->ring_bytes())) {
    ASSERT_TRUE(sender.Send(message).ok());
  }
  one.join();
  two.join();
  EXPECT_TRUE(ok[1]);
  EXPECT_TRUE(ok[2]);
}

TEST(PlanRing, ProcessesGetEveryMessageInOrder) {
  auto group = RankGroup::Create(2, SmallRing());
  ASSERT_TRUE(group.ok());
  const pid_t pid = fork();
  if (pid == 0) {
    auto attached = RankGroup::Attach(dup((*group)->fd()));
    _exit(attached.ok() && ReceivesAll(*attached, 1) ? 0 : 1);
  }
  PlanSender sender(*group, kRingPatience);
  for (const std::string& message : Messages((*group)->ring_bytes())) {
    ASSERT_TRUE(sender.Send(message).ok());
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(PlanRing, AFollowerThatDoesNotReadEndsTheGroup) {
  auto group = RankGroup::Create(2, SmallRing());
  ASSERT_TRUE(group.ok());
  PlanSender sender(*group, absl::Milliseconds(20));
  const absl::Status status = sender.Send(std::string(5000, 'x'));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  PlanReceiver receiver(*group, 1);
  EXPECT_EQ(receiver.Receive().status(), status);
}

TEST(PlanRing, AbortEndsAnIdleFollower) {
  auto group = RankGroup::Create(2);
  ASSERT_TRUE(group.ok());
  absl::Status status;
  std::thread follower([&] { status = PlanReceiver(*group, 1).Receive().status(); });
  (*group)->Abort("the leader is gone");
  follower.join();
  EXPECT_EQ(status, absl::UnavailableError("the leader is gone"));
}

}  // namespace
}  // namespace qwenserve
