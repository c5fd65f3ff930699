#include "services/gateway/routing/model_catalog.h"

#include <vector>

#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

KnownTokenizer Tokenizer(const std::string& model, bool ready = true) {
  KnownTokenizer tokenizer;
  tokenizer.description.set_model(model);
  tokenizer.description.set_tokenizer_hash("h");
  tokenizer.ready = ready;
  return tokenizer;
}

KnownGenerator Generator(const std::string& model, bool ready = true) {
  KnownGenerator generator;
  generator.hello.set_model(model);
  generator.hello.set_tokenizer_hash("h");
  generator.hello.mutable_limits()->set_max_model_len(100);
  generator.ready = ready;
  return generator;
}

// Up, up, without a generator, and without anything.
ModelCatalog Catalog() {
  return ModelCatalog(
      {Tokenizer("mine"), Tokenizer("other"), Tokenizer("half"), Tokenizer("down", false)},
      {Generator("mine"), Generator("other"), Generator("half", false), Generator("down", false)});
}

KeyGrant GrantFor(std::vector<std::string> models) {
  KeyGrant grant;
  grant.models = std::move(models);
  return grant;
}

TEST(ModelCatalogTest, AModelThatAKeyMayNotUseIsNotThere) {
  const ModelCatalog catalog = Catalog();
  const KeyGrant grant = GrantFor({"mine"});
  EXPECT_TRUE(catalog.Resolve("mine", &grant).ok());
  EXPECT_TRUE(catalog.ResolveForText("mine", &grant).ok());
  EXPECT_TRUE(catalog.Find("mine", &grant).ok());
  const std::string nothing = "none-such";
  for (const std::string name : {"other", "half", "down"}) {
    const std::pair<absl::Status, absl::Status> kAnswers[] = {
        {catalog.Resolve(name, &grant).status(), catalog.Resolve(nothing, &grant).status()},
        {catalog.ResolveForText(name, &grant).status(),
         catalog.ResolveForText(nothing, &grant).status()},
        {catalog.Find(name, &grant).status(), catalog.Find(nothing, &grant).status()}};
    for (const auto& [hidden, unknown] : kAnswers) {
      EXPECT_EQ(hidden, ModelNotFound(name));
      EXPECT_EQ(unknown, ModelNotFound(nothing));
    }
  }
  EXPECT_EQ(catalog.Resolve("half").status().code(), absl::StatusCode::kUnavailable);
}

TEST(ModelCatalogTest, NoNameMeansTheOnlyModelOfTheKey) {
  const ModelCatalog catalog = Catalog();
  const KeyGrant one = GrantFor({"mine", "never served"});
  ASSERT_TRUE(catalog.Resolve("", &one).ok());
  EXPECT_EQ(catalog.Resolve("", &one)->name, "mine");
  // How many others there are is nothing for the key either.
  const KeyGrant two = GrantFor({"mine", "other"});
  const absl::Status ambiguous = catalog.Resolve("", &two).status();
  EXPECT_EQ(ErrorField(ambiguous), "model");
  EXPECT_EQ(ambiguous.message(), "model: is required, because 2 models are served");
  const KeyGrant none = GrantFor({"never served"});
  EXPECT_EQ(catalog.Resolve("", &none).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(catalog.Resolve("").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace qwenserve
