#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/runtime/device_choice.h"
#include "services/common/version.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"

namespace qwenserve {
namespace {

Json ModelToJson(const v1::Model& model) {
  return {{"id", model.id()},
          {"family", model.family()},
          {"max_model_len", model.max_model_len()},
          {"chat_template", model.chat_template()},
          {"vocab_size", model.vocab_size()},
          {"tokenizer_hash", model.tokenizer_hash()},
          {"fingerprints",
           std::vector<std::string>(model.fingerprints().begin(), model.fingerprints().end())},
          {"held_as", std::vector<std::string>(model.held_as().begin(), model.held_as().end())},
          {"ready_replicas", model.ready_replicas()}};
}

void PrintModel(const v1::Model& model) {
  std::cout << model.id() << "  family " << model.family() << ", context " << model.max_model_len()
            << ", template " << (model.chat_supported() ? model.chat_template() : "none") << ", "
            << model.ready_replicas() << " ready" << std::endl;
  for (const std::string& text : model.held_as()) std::cout << "  " << text << std::endl;
}

// All of them, or the one with this name: NOT_FOUND when it is not served.
absl::StatusOr<v1::ListModelsResponse> ModelsAskedFor(GatewayClient& client,
                                                      const std::string& name) {
  auto models = client.ListModels();
  if (!models.ok() || name.empty()) return models;
  v1::ListModelsResponse one;
  for (const v1::Model& model : models->models()) {
    if (model.id() == name) *one.add_models() = model;
  }
  if (one.models().empty()) {
    return client.ExplainModel(
        absl::NotFoundError(absl::StrCat("model '", name, "' is not served here")), name, *models);
  }
  return one;
}

int RunModels(const ClientOptions& options) {
  const auto client = GatewayClient::Create(options);
  if (!client.ok()) return ReportError(client.status());
  const auto models = ModelsAskedFor(**client, options.model);
  if (!models.ok()) return ReportError(models.status());
  Json json = Json::array();
  for (const v1::Model& model : models->models()) {
    options.json() ? json.push_back(ModelToJson(model)) : PrintModel(model);
  }
  if (models->models().empty()) std::cerr << "qwenctl: " << (*client)->NoModels() << std::endl;
  if (options.json()) std::cout << json.dump() << std::endl;
  return kExitOk;
}

// Serving is what the gateway's health service says, for scripts in the exit status too.
int RunStatus(const ClientOptions& options) {
  const auto client = GatewayClient::Create(options);
  if (!client.ok()) return ReportError(client.status());
  const auto models = ModelsAskedFor(**client, options.model);
  if (!models.ok() && !options.model.empty()) return ReportError(models.status());
  const absl::StatusOr<bool> serving = (*client)->IsServing(options.model);
  if (!serving.ok()) return ReportError(serving.status());
  Json json = {
      {"address", options.connection.address}, {"serving", *serving}, {"models", Json::array()}};
  if (!options.json()) {
    std::cout << options.connection.address << "  " << (*serving ? "SERVING" : "NOT_SERVING")
              << std::endl;
  }
  if (models.ok()) {
    for (const v1::Model& model : models->models()) {
      options.json() ? json["models"].push_back(ModelToJson(model)) : PrintModel(model);
    }
  }
  if (options.json()) std::cout << json.dump() << std::endl;
  return *serving ? kExitOk : kExitUnavailable;
}

}  // namespace

std::string VersionText() { return absl::StrCat("qwenctl ", Version(), "\n", GpuKernelsLine()); }

void AddInfoCommands(CLI::App& app, int* exit_code) {
  CLI::App* models = app.add_subcommand("models", "What the gateway serves");
  auto models_options = std::make_shared<ClientOptions>();
  AddClientFlags(*models, models_options.get());
  models->callback([models_options, exit_code] { *exit_code = RunModels(*models_options); });

  CLI::App* status = app.add_subcommand("status", "Whether the gateway serves, and with what");
  auto status_options = std::make_shared<ClientOptions>();
  AddClientFlags(*status, status_options.get());
  status->callback([status_options, exit_code] { *exit_code = RunStatus(*status_options); });

  CLI::App* version = app.add_subcommand("version", "Version of this program");
  version->callback([exit_code] {
    std::cout << VersionText() << std::endl;
    *exit_code = kExitOk;
  });
}

}  // namespace qwenserve
