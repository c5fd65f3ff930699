#include "services/gateway/placement_queue.h"

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

TEST(PlacementQueueTest, ARequestMayRuleOutReplicas) {
  v1::ServerHello hello;
  hello.set_instance_id("a");
  hello.set_model("qwen");
  hello.set_tokenizer_hash("words");
  hello.set_numerics_fingerprint("bits");
  PlacementRequest request;
  request.model = "qwen";
  request.tokenizer_hash = "words";
  EXPECT_TRUE(Allows(request, hello));
  request.fingerprint = "bits";
  EXPECT_TRUE(Allows(request, hello));
  request.excluded = {"b", "c"};
  EXPECT_TRUE(Allows(request, hello));
  request.excluded = {"b", "a"};
  EXPECT_FALSE(Allows(request, hello));
  request.excluded.clear();
  request.fingerprint = "other bits";
  EXPECT_FALSE(Allows(request, hello));
  request.fingerprint.clear();
  request.model = "other";
  EXPECT_FALSE(Allows(request, hello));
  request.model = "qwen";
  request.tokenizer_hash = "other words";
  EXPECT_FALSE(Allows(request, hello));
}

}  // namespace
}  // namespace qwenserve
