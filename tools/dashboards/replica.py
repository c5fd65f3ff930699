"""One replica of a model: its engine, its memory, its ranks."""

from grafana import (BYTES, COUNT, GREEN, PER_SECOND, RATIO, RED, SECONDS, TOKENS_PER_SECOND, YELLOW, dashboard, heatmap, stat,
                     steps, table, timeseries, variable)
from queries import FLEET, MODEL, NAMESPACE, RELEASE, gauge, quantiles, rate, total

POD = 'pod=~"$pod"'

NOW = ("Now", [
    stat("Ready", "1 while it takes requests.", (gauge("qwenserve_ready", POD), "ready"), width=3,
         alerts=("QwenserveNotReady",), thresholds=steps(RED, (1, GREEN))),
    stat("Running", "Sequences in the batch.", (gauge("qwenserve_sequences_running", POD), "running"), width=3),
    stat("Waiting", "Sequences accepted, not in the batch.", (gauge("qwenserve_sequences_waiting", POD), "waiting"), width=3),
    stat("Generated", "Tokens per second.", (rate("qwenserve_generated_tokens_total", POD), "tokens"), TOKENS_PER_SECOND,
         width=3),
    stat("KV cache", "Part in use, without what only the prefix cache holds.",
         (gauge("qwenserve_kv_cache_usage_ratio", POD), "in use"), RATIO, width=3, alerts=("QwenserveKvCacheFull",),
         thresholds=steps(GREEN, (0.8, YELLOW), (0.95, RED))),
    stat("Sign of life", "Time since the engine's last one while it works.",
         (gauge("qwenserve_step_age_seconds", POD), "age"), SECONDS, width=3, alerts=("QwenserveStepStalled",),
         thresholds=steps(GREEN, (5, YELLOW), (30, RED))),
    stat("Gateways", "That are connected.", (gauge("qwenserve_generator_sessions", POD), "sessions"), width=3,
         alerts=("QwenserveWorkersMissing",), thresholds=steps(RED, (1, GREEN))),
    stat("Up for", "Since the start of the process.", (f'time() - {gauge("process_start_time_seconds", POD)}', "up"), SECONDS,
         width=3, alerts=("QwenserveRestarts",)),
    table("Size of the KV cache", "Tokens in a block, and blocks.", (gauge("qwenserve_cache_info", POD), ""),
          hidden=("component", "namespace", "release"), width=8, height=4, alerts=("QwenserveKvCacheFull",)),
    table("How it holds the model", "Device, format of the weights and of the KV cache, tensor-parallel ranks.",
          (gauge("qwenserve_model_info", POD), ""), hidden=("component", "namespace", "release"), width=16, height=4,
          alerts=("QwenserveMixedReplicas",)),
])

ENGINE = ("Engine", [
    timeseries("Step length", "Of every step of the engine.", quantiles("qwenserve_step_duration_seconds", POD), SECONDS,
               alerts=("QwenserveStepStalled",)),
    heatmap("Steps by length", "Long steps hold prompts; a second band is another kind of work.",
            total(rate("qwenserve_step_duration_seconds_bucket", POD), "le"), width=8),
    timeseries("Steps", "Per second.", (rate("qwenserve_engine_steps_total", POD), "steps"), PER_SECOND),
    timeseries("Tokens", "Computed of prompts, taken from the cache, generated, and drawn in vain for sequences that had ended.",
               [(rate(f"qwenserve_{name}_total", POD), legend) for name, legend in (
                   ("prompt_tokens", "prompt"), ("cached_prompt_tokens", "cached"), ("generated_tokens", "generated"),
                   ("surplus_tokens", "surplus"))], TOKENS_PER_SECOND),
    timeseries("Sequences in a step", "How well the batch is filled.", quantiles("qwenserve_step_sequences", POD)),
    timeseries("Tokens in a step", "Rows that a step computes, of prompts and answers.", quantiles("qwenserve_step_tokens", POD)),
    timeseries("Sequences", "In the batch, and accepted but not in it.",
               [(gauge("qwenserve_sequences_running", POD), "running"), (gauge("qwenserve_sequences_waiting", POD), "waiting")]),
    timeseries("Prompt tokens to do", "Of all accepted sequences.", (gauge("qwenserve_queued_prompt_tokens", POD), "tokens")),
    timeseries("Sequences ended", "By reason; error is ours.",
               (total(rate("qwenserve_sequences_finished_total", POD), "reason"), "{{reason}}"), PER_SECOND,
               alerts=("QwenserveAvailabilityBurnsFast",)),
    timeseries("Submits refused", "At the replica's own door.", (rate("qwenserve_sequences_rejected_total", POD), "refused"),
               PER_SECOND),
    timeseries("Rows sampled by several ranks", "By what they sent rank 0: a pair for each, or all of it.",
               (rate("qwenserve_sampled_rows_total", POD), "{{way}}"), PER_SECOND),
    timeseries("Sign of life", "Time since the engine's last one while it works.",
               (gauge("qwenserve_step_age_seconds", POD), "age"), SECONDS, alerts=("QwenserveStepStalled",)),
])

SEQUENCES = ("Sequences", [
    timeseries("From submit to the first step", "Waiting inside the replica.", quantiles("qwenserve_queue_duration_seconds", POD),
               SECONDS),
    timeseries("From the first step to the first token", "Computing the prompt, beside the answers of others.",
               quantiles("qwenserve_sequence_prefill_seconds", POD), SECONDS, alerts=("QwenserveFirstTokenBurnsFast",)),
    timeseries("From submit to the first token", "Both together.", quantiles("qwenserve_sequence_first_token_seconds", POD),
               SECONDS),
    timeseries("Between tokens", "Of one sequence.", quantiles("qwenserve_sequence_inter_token_seconds", POD), SECONDS),
    timeseries("From the first token to the end", "Grows with the length of answers.",
               quantiles("qwenserve_sequence_decode_seconds", POD), SECONDS),
    timeseries("From submit to the end", "Of sequences that got a token.", quantiles("qwenserve_sequence_duration_seconds", POD),
               SECONDS),
    timeseries("Prompt length", "Tokens.", quantiles("qwenserve_sequence_prompt_tokens", POD), width=12),
    timeseries("Answer length", "Tokens drawn for a sequence.", quantiles("qwenserve_sequence_generated_tokens", POD), width=12),
])

# Empty for the simulated engine.
RANKS = ("Ranks", [
    timeseries("Steps by rank", "Per second; ranks of one replica go in step.",
               (rate("qwenserve_rank_steps_total", POD), "rank {{rank}}"), PER_SECOND),
    timeseries("Age of the step by rank", "Since the rank's unfinished step could begin. One line above the others is a rank that "
               "hangs.", (gauge("qwenserve_rank_step_age_seconds", POD), "rank {{rank}}"), SECONDS,
               alerts=("QwenserveStepStalled",)),
    timeseries("Time in collectives", "Part of the time, the wait for other ranks included: the slowest rank waits least. Ranks on "
               "the CPU, and more than one, only.", (rate("qwenserve_collective_seconds_total", POD), "rank {{rank}}"), RATIO, top=1,
               alerts=("QwenserveRankSkew",)),
    timeseries("GPU memory", "In use by whomever, of each rank's GPU; nothing on the CPU.",
               (gauge("qwenserve_gpu_memory_used_bytes", POD), "rank {{rank}}"), BYTES, width=12),
    timeseries("GPU memory in use", "Part of all there is.",
               (f'{gauge("qwenserve_gpu_memory_used_bytes", POD)} / {gauge("qwenserve_gpu_memory_bytes", POD)}', "rank {{rank}}"),
               RATIO, width=12, top=1),
])

MEMORY = ("KV cache", [
    timeseries("Blocks", "In use by sequences, and kept for later prompts; the line above is all there are.",
               [(gauge("qwenserve_kv_blocks", POD), "all"), (gauge("qwenserve_kv_blocks_used", POD), "in use"),
                (gauge("qwenserve_prefix_cache_blocks", POD), "prefix cache")], width=6, alerts=("QwenserveKvCacheFull",)),
    timeseries("Preemptions", "Sequences put back for want of blocks.", (rate("qwenserve_preemptions_total", POD), "preemptions"),
               PER_SECOND, width=6, alerts=("QwenserveKvCacheFull",)),
    timeseries("Prefix cache", "Prompt tokens that were asked for and that it had.",
               [(rate("qwenserve_prefix_cache_queried_tokens_total", POD), "asked"),
                (rate("qwenserve_prefix_cache_hit_tokens_total", POD), "had")], TOKENS_PER_SECOND, width=6),
    timeseries("Evictions", "Blocks of the prefix cache whose memory was needed.",
               (rate("qwenserve_prefix_cache_evictions_total", POD), "blocks"), PER_SECOND, width=6),
])

PROCESS = ("Process", [
    timeseries("CPU", "Cores.", (rate("process_cpu_seconds_total", POD), "cores"), COUNT),
    timeseries("Memory", "Resident memory.", (gauge("process_resident_memory_bytes", POD), "resident"), BYTES),
    timeseries("File descriptors", "Open, and the limit.",
               [(gauge("process_open_fds", POD), "open"), (gauge("process_max_fds", POD), "limit")],
               alerts=("QwenserveDescriptorsNearLimit",)),
])

REPLICA_DASHBOARD = dashboard(
    "qwenserve-replica", "qwenserve / Replica", "One generator.",
    [NAMESPACE, RELEASE, MODEL,
     variable("pod", "Replica", f'label_values(qwenserve_sequences_running{{model=~"$model",{FLEET}}}, pod)', several=False)],
    [NOW, ENGINE, SEQUENCES, RANKS, MEMORY, PROCESS])
