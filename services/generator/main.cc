#include <cstdio>
#include <filesystem>
#include <string>

#include "engine/runtime/device_choice.h"
#include "engine/runtime/follower.h"
#include "services/common/server_main.h"
#include "services/generator/generator_role.h"

namespace {

constexpr int kGrpcPort = 50071;
constexpr int kOpsPort = 9090;

void AddRankFlags(qwenserve::Flags& flags, qwenserve::EngineOptions* engine, std::string* tp_mode,
                  qwenserve::NodeFlags* nodes) {
  flags.Add("tp", &engine->tp, "Tensor-parallel ranks");
  flags.Add("tp-mode", tp_mode, "Ranks as threads or processes");
  flags.OneOf({"threads", "processes"});
  flags.Add("num-nodes", &nodes->num_nodes,
            "Machines that the ranks are on, the same number on each; every one runs this program "
            "with the same --num-nodes and --leader");
  flags.Add("node-rank", &nodes->node_rank, "Which of the nodes this one is; 0 is the leader");
  flags.Add("leader", &nodes->leader,
            "HOST:PORT at which node 0 listens for the others, and where they find it");
}

void AddBatchFlags(qwenserve::Flags& flags, qwenserve::EngineOptions* engine,
                   std::string* prefix_cache, double* max_step_ms) {
  flags.Add("max-batch-tokens", &engine->max_batch_tokens,
            "Rows of one step, at most; 0 = 512 on the CPU, 2048 on a GPU");
  flags.Add("max-step-ms", max_step_ms,
            "Milliseconds that a step may take when prompts share it with answers under way; 0 = "
            "twice what the answers alone take");
  flags.Add("max-running", &engine->max_running, "Sequences in one step");
  flags.Add("prefix-cache", prefix_cache,
            "on: reuse what earlier prompts and answers of the same beginning have computed");
  flags.OneOf({"on", "off"});
  flags.Add("step-timeout", &engine->step_timeout,
            "Seconds after which a step counts as hung and the replica ends");
  flags.Add("max-waiting", &engine->max_waiting, "Sequences that may wait; more are refused");
}

// A node but the leader has no clients to be late for, and the leader's whole drain to wait for.
void WaitForLeader(qwenserve::ServerOptions* server) {
  server->drain_timeout += server->drain_delay;
  server->drain_delay = absl::ZeroDuration();
}

}  // namespace

int main(int argc, char** argv) {
  using namespace qwenserve;
  // Before anything else: a rank in a process of its own is this program too.
  if (IsFollowerCommand(argc, argv)) return RunFollower(argc, argv);

  ServerOptions server;
  GeneratorOptions generator;
  EngineOptions& engine = generator.engine;
  NodeFlags& nodes = generator.nodes;
  SimOptions sim;
  std::string engine_kind = "model";
  std::string tp_mode = "threads";
  std::string kv_dtype = KvFormatName(engine.kv_format);
  std::string load_format = "auto";
  std::string weights = "auto";
  std::string prefix_cache = "on";
  double max_step_ms = 0;

  Flags flags("qwenserve-generator", "Runs one replica of a model.");
  flags.AddVersionLine(GpuKernelsLine());
  AddServerFlags(flags, &server, kGrpcPort, kOpsPort);
  AddMetricsCompatFlag(flags, &generator.metrics_compat);
  flags.Add("model", &engine.model_dir, "Model directory");
  flags.Required();
  flags.Add("engine", &engine_kind,
            "model, or sim: no weights, made-up tokens after made-up times, for tests of what is "
            "around a model; the folder needs a tokenizer and config.json only");
  flags.OneOf({"model", "sim"});
  AddSimFlags(flags, &sim);
  flags.Add("served-model-name", &generator.served_model_name,
            "Name for `model` in requests; default: the folder's name");
  AddRankFlags(flags, &engine, &tp_mode, &nodes);
  flags.Add("nccl-library", &engine.nccl_library,
            "With several GPUs: NCCL's file, or the folder that it is in; default: as installed");
  flags.Add("device", &engine.device, "auto, cpu or cuda");
  flags.OneOf({"auto", "cpu", "cuda"});
  flags.Add("gpu-mode", &engine.gpu_mode,
            "exact: a token never depends on what else is computed; fast: products of many rows by "
            "cuBLASLt, which does not promise that");
  flags.OneOf({"exact", "fast"});
  flags.Add("isa", &engine.isa,
            "CPU instruction set: auto, portable, avx2, avx512, avx512bf16, amx, neon or neondot");
  flags.Add(
      "load-format", &load_format,
      "dummy = random weights of the sizes in config.json, which is all that the model directory "
      "needs then: for benchmarks");
  flags.OneOf({"auto", "dummy"});
  flags.Add("weights", &weights,
            "auto = as the checkpoint holds them; int8 or int4: quantised while loading");
  flags.OneOf({"auto", "bf16", "int8", "int4"});
  flags.Add("max-model-len", &engine.max_model_len,
            "Prompt and answer together, in tokens; 0 = the checkpoint's own");
  flags.AddBytes("kv-cache-memory", &engine.kv_cache_bytes,
                 "Of all ranks together, such as 2GiB; 0 = from the memory that is free");
  flags.AddBytes("memory-limit", &engine.memory_limit,
                 "Of the host's memory plan with at most this, such as 8GiB; 0 = all that is free");
  flags.Add(
      "gpu-memory-fraction", &engine.gpu_memory_fraction,
      "Part of a GPU's memory that may be used; what weights and buffers leave of it is the KV "
      "cache");
  flags.Add("kv-dtype", &kv_dtype,
            "Format of the KV cache: bf16, f32, int8 (half the memory), or qwen-int8, the first "
            "generation's own, for comparisons with it");
  flags.OneOf({"bf16", "f32", "int8", "qwen-int8"});
  flags.Add("threads", &engine.num_threads,
            "Of all ranks together; 0 = from cgroup quota and affinity");
  AddBatchFlags(flags, &engine, &prefix_cache, &max_step_ms);
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;

  engine.rank_mode = tp_mode == "processes" ? RankMode::kProcesses : RankMode::kThreads;
  std::error_code ignored;  // without /proc there are no rank processes; threads need no path
  engine.rank_binary = std::filesystem::read_symlink("/proc/self/exe", ignored).string();
  engine.load_format = *ParseLoadFormat(load_format);
  engine.weights = *ParseWeightChoice(weights);
  engine.kv_format = *KvFormatFromName(kv_dtype);
  engine.prefix_cache = prefix_cache == "on";
  engine.max_step = absl::Milliseconds(max_step_ms);
  if (const absl::Status sound = CheckNodeFlags(nodes, engine.tp); !sound.ok()) {
    std::fprintf(stderr, "qwenserve-generator: %s\n", std::string(sound.message()).c_str());
    return 2;
  }
  if (engine_kind == "sim") {
    if (nodes.num_nodes > 1 || engine.tp > 1) {
      std::fprintf(stderr, "qwenserve-generator: --engine=sim has one rank on one node\n");
      return 2;
    }
    generator.sim = sim;
  }
  if (nodes.node_rank > 0) WaitForLeader(&server);
  return RunServer("generator", Exposure::kInternal, server, [&](ServerContext& context) {
    if (nodes.node_rank == 0) return GeneratorRole::Create(generator, context);
    NodeFollowerOptions node;
    node.model_dir = engine.model_dir;
    node.rank_binary = engine.rank_binary;
    node.nccl_library = engine.nccl_library;
    return NodeRole::Create(nodes, std::move(node), context);
  });
}
