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
    table("How it holds the model", "Device, format of the weights and of the KV cache, tensor-parallel ranks.",
          (gauge("qwenserve_model_info", POD), ""), hidden=("component", "namespace", "release"), width=24, height=4,
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
    timeseries("Generated in a step", "On average: how well the batch is filled.",
               (f'{rate("qwenserve_generated_tokens_total", POD)} / ({rate("qwenserve_engine_steps_total", POD)} > 0) or vector(0)',
                "tokens"), COUNT),
    timeseries("Sequences", "In the batch, and accepted but not in it.",
               [(gauge("qwenserve_sequences_running", POD), "running"), (gauge("qwenserve_sequences_waiting", POD), "waiting")]),
    timeseries("From submit to the first step", "Inside the replica.", quantiles("qwenserve_queue_duration_seconds", POD),
               SECONDS),
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
    [NOW, ENGINE, MEMORY, PROCESS])
