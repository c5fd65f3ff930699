#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"

namespace qwenserve {
namespace {

struct TokenizeFlags {
  ClientOptions client;
  std::string text;
  std::string input_file;
};

struct DetokenizeFlags {
  ClientOptions client;
  std::vector<uint32_t> token_ids;
};

absl::StatusOr<std::vector<uint32_t>> Encode(GatewayClient& client, const std::string& text) {
  v1::TokenizeRequest request;
  request.set_text(text);
  absl::StatusOr<v1::TokenizeResponse> response = client.Tokenize(std::move(request));
  if (!response.ok()) return response.status();
  return std::vector<uint32_t>(response->token_ids().begin(), response->token_ids().end());
}

void PrintIds(const std::vector<uint32_t>& ids) {
  for (size_t i = 0; i < ids.size(); ++i) std::cout << (i > 0 ? "," : "") << ids[i];
  std::cout << "\n";
}

// Each line of the file is a JSON string.
int TokenizeFile(const TokenizeFlags& flags, GatewayClient& client) {
  std::ifstream file(flags.input_file);
  if (!file) {
    std::cerr << "qwenctl: " << flags.input_file << ": cannot be opened" << std::endl;
    return kExitFailed;
  }
  Json all = Json::array();
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const std::string where = absl::StrCat(flags.input_file, ":", number);
    const absl::StatusOr<Json> json = ParseJson(line, where);
    if (!json.ok() || !json->is_string()) {
      std::cerr << "qwenctl: " << where << ": not a JSON string such as \"text\"" << std::endl;
      return kExitFailed;
    }
    const auto ids = Encode(client, json->get<std::string>());
    if (!ids.ok()) return ReportError(ids.status());
    if (flags.client.json()) {
      all.push_back(*ids);
    } else {
      PrintIds(*ids);
    }
  }
  if (flags.client.json()) std::cout << all.dump() << std::endl;
  return kExitOk;
}

int RunTokenize(const TokenizeFlags& flags) {
  const auto client = GatewayClient::Create(flags.client);
  if (!client.ok()) return ReportError(client.status());
  if (!flags.input_file.empty()) return TokenizeFile(flags, **client);
  const auto ids = Encode(**client, flags.text);
  if (!ids.ok()) return ReportError(ids.status());
  if (flags.client.json()) {
    std::cout << Json(*ids).dump() << std::endl;
  } else {
    PrintIds(*ids);
  }
  return kExitOk;
}

int RunDetokenize(const DetokenizeFlags& flags) {
  v1::DetokenizeTextRequest request;
  for (uint32_t id : flags.token_ids) request.add_token_ids(id);
  const auto client = GatewayClient::Create(flags.client);
  if (!client.ok()) return ReportError(client.status());
  const absl::StatusOr<std::string> text = (*client)->Detokenize(std::move(request));
  if (!text.ok()) return ReportError(text.status());
  std::cout << (flags.client.json() ? Json({{"text", *text}}).dump() : *text) << std::endl;
  return kExitOk;
}

}  // namespace

void AddTokenCommands(CLI::App& app, int* exit_code) {
  CLI::App* tokenize = app.add_subcommand("tokenize", "Text to token ids");
  auto flags = std::make_shared<TokenizeFlags>();
  AddClientFlags(*tokenize, &flags->client);
  CLI::Option_group* input = tokenize->add_option_group("input");
  input->add_option("--text", flags->text, "Text")->check(CheckText);
  input->add_option("--input-file", flags->input_file, "File with one JSON string per line")
      ->check(CLI::ExistingFile);
  input->require_option(1);
  tokenize->callback([flags, exit_code] { *exit_code = RunTokenize(*flags); });

  CLI::App* detokenize = app.add_subcommand("detokenize", "Token ids to text");
  auto ids = std::make_shared<DetokenizeFlags>();
  AddClientFlags(*detokenize, &ids->client);
  detokenize->add_option("--token-ids", ids->token_ids, "Ids, such as 1,2,3")
      ->check(CheckTokenId)
      ->delimiter(',')
      ->required();
  detokenize->callback([ids, exit_code] { *exit_code = RunDetokenize(*ids); });
}

}  // namespace qwenserve
