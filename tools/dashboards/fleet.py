"""What all of it does: for the screen on the wall, and the first look when something is wrong."""

from grafana import (BYTES, COUNT, GREEN, PER_SECOND, RATIO, RED, REQUESTS_PER_SECOND, SECONDS, TOKENS_PER_SECOND, YELLOW,
                     dashboard, stat, steps, table, timeseries)
from queries import (FLEET, MODEL, NAMESPACE, OF_MODEL, RELEASE, error_ratio, gauge, quantile, quantiles, rate, total)

NOW = ("Now", [
    stat("Ready", "Processes that take requests, by kind.",
         (f'sum by (component) ({gauge("qwenserve_ready")})', "{{component}}"), width=6,
         alerts=("QwenserveNoReadyGenerator", "QwenserveModelNotServed", "QwenserveNoReadyTokenizer", "QwenserveNoReadyGateway"),
         thresholds=steps(RED, (1, GREEN))),
    stat("Alerts", "Alerts that fire, pages and tickets.",
         (f'count(ALERTS{{alertname=~"Qwenserve.*",alertstate="firing",{FLEET}}}) or vector(0)', "firing"), width=3,
         thresholds=steps(GREEN, (1, RED))),
    stat("Requests", "Requests that ended, per second, of all methods.",
         (total(rate("qwenserve_gateway_requests_total")), "requests"), REQUESTS_PER_SECOND, width=3),
    stat("Failed", "Part of the generating requests that failed by our fault or were turned away by an overload.",
         (error_ratio("$__rate_interval"), "failed"), RATIO, width=3, alerts=("QwenserveAvailabilityBurnsFast",),
         thresholds=steps(GREEN, (0.001, YELLOW), (0.01, RED)), decimals=2),
    stat("First token p95", "95 of 100 first tokens came within this time of the request's arrival.",
         (quantile(0.95, "qwenserve_time_to_first_token_seconds", OF_MODEL), "p95"), SECONDS, width=3,
         alerts=("QwenserveFirstTokenBurnsFast",)),
    stat("Generated", "Tokens that clients got, per second.",
         (total(rate("qwenserve_gateway_completion_tokens_total", OF_MODEL)), "tokens"), TOKENS_PER_SECOND, width=3),
    stat("Waiting", "Requests that wait for a replica with room.",
         (total(gauge("qwenserve_gateway_requests_waiting")), "waiting"), width=3, alerts=("QwenserveQueueGrows",)),
])

TRAFFIC = ("Traffic", [
    timeseries("Requests by method", "Requests that ended, per second. Methods that begin with Http came over the HTTP port.",
               (f'{total(rate("qwenserve_gateway_requests_total"), "method")} > 0', "{{method}}"), REQUESTS_PER_SECOND,
               stack=True),
    timeseries("Requests by status", "CANCELLED: the client left. RESOURCE_EXHAUSTED: no room, or no quota; see Turned away.",
               (f'{total(rate("qwenserve_gateway_requests_total"), "code")} > 0', "{{code}}"), REQUESTS_PER_SECOND,
               stack=True, alerts=("QwenserveAvailabilityBurnsFast",)),
    timeseries("Tokens", "What the gateways admitted and delivered. Prompts taken from the cache count too.",
               [(total(rate("qwenserve_gateway_prompt_tokens_total", OF_MODEL)), "prompt"),
                (total(rate("qwenserve_gateway_cached_prompt_tokens_total", OF_MODEL)), "prompt, cached"),
                (total(rate("qwenserve_gateway_completion_tokens_total", OF_MODEL)), "completion")], TOKENS_PER_SECOND),
])

LATENCY = ("Latency", [
    timeseries("Time to first token", "From a request's arrival at the gateway to its first token.",
               quantiles("qwenserve_time_to_first_token_seconds", OF_MODEL), SECONDS, width=6,
               alerts=("QwenserveFirstTokenBurnsFast", "QwenserveFirstTokenBurnsSlowly")),
    timeseries("Between tokens", "Between two tokens of one answer, as the gateway gave them out.",
               quantiles("qwenserve_inter_token_seconds", OF_MODEL), SECONDS, width=6),
    timeseries("Wait for a replica", "Part of the time to the first token: until a replica had room.",
               quantiles("qwenserve_gateway_queue_wait_seconds", OF_MODEL), SECONDS, width=6, alerts=("QwenserveQueueGrows",)),
    timeseries("Whole requests", "From arrival to the end, of requests that a replica took.",
               quantiles("qwenserve_request_duration_seconds", OF_MODEL), SECONDS, width=6),
])

MODELS = ("Models", [
    timeseries("Replicas", "That take work, as the gateway sees it that knows most of them.",
               (f'max by (model) ({gauge("qwenserve_gateway_model_replicas", OF_MODEL)})', "{{model}}"), width=6,
               alerts=("QwenserveNoReadyGenerator",)),
    timeseries("Running", "Sequences in the batches of a model's replicas.",
               (total(gauge("qwenserve_sequences_running", OF_MODEL), "model"), "{{model}}"), width=6),
    timeseries("Waiting", "At the gateways, and inside replicas.",
               [(total(gauge("qwenserve_gateway_queue_depth", OF_MODEL), "model"), "{{model}} at gateways"),
                (total(gauge("qwenserve_sequences_waiting", OF_MODEL), "model"), "{{model}} in replicas")], width=6,
               alerts=("QwenserveQueueGrows",)),
    timeseries("KV cache", "The fullest replica of each model. Blocks that only the prefix cache holds count as free.",
               (f'max by (model) ({gauge("qwenserve_kv_cache_usage_ratio", OF_MODEL)})', "{{model}}"), RATIO, width=6, top=1,
               alerts=("QwenserveKvCacheFull",), thresholds=steps(GREEN, (0.95, RED))),
    timeseries("Prefix cache hits", "Part of the prompt tokens that need not be computed.",
               (f'{total(rate("qwenserve_prefix_cache_hit_tokens_total", OF_MODEL), "model")} / '
                f'{total(rate("qwenserve_prefix_cache_queried_tokens_total", OF_MODEL), "model")}', "{{model}}"), RATIO,
               width=6, top=1),
    timeseries("Answers", "Complete ones, by why they ended; length: max_tokens, or no room in the context.",
               (total(rate("qwenserve_gateway_answers_finished_total", OF_MODEL), "model, reason"), "{{model}} {{reason}}"),
               PER_SECOND, width=6),
    timeseries("Clients that left", "Generations given up by the client, by how far they were.",
               (total(rate("qwenserve_gateway_cancels_total"), "stage"), "{{stage}}"), PER_SECOND, width=6),
    timeseries("Sequences in a step", "How well the batches are filled, for half and for 95 of 100 steps.",
               [(quantile(q, "qwenserve_step_sequences", OF_MODEL, by="model"), "{{model}} " + name)
                for q, name in ((0.5, "p50"), (0.95, "p95"))], width=6),
    timeseries("Tokens computed", "By the engines: prompts without what the cache had, and answers.",
               [(total(rate("qwenserve_prompt_tokens_total", OF_MODEL), "model"), "{{model}} prompt"),
                (total(rate("qwenserve_generated_tokens_total", OF_MODEL), "model"), "{{model}} generated")],
               TOKENS_PER_SECOND),
    timeseries("Generated by replica", "An uneven picture is a slow replica, or a new one.",
               (total(rate("qwenserve_generated_tokens_total", OF_MODEL), "pod"), "{{pod}}"), TOKENS_PER_SECOND),
    timeseries("Step length by replica", "95 of 100 steps of the engine took at most this long.",
               (quantile(0.95, "qwenserve_step_duration_seconds", OF_MODEL, by="pod"), "{{pod}}"), SECONDS,
               alerts=("QwenserveStepStalled", "QwenserveRankSkew")),
])

TROUBLE = ("Trouble", [
    timeseries("Turned away", "Requests refused or ended for want of room, by cause; quota_* is the key's limit and no fault.",
               (f'{total(rate("qwenserve_gateway_sheds_total"), "cause")}', "{{cause}}"), PER_SECOND, width=6,
               alerts=("QwenserveShedding",)),
    timeseries("Went on elsewhere", "Answers that lost their replica and went on at another, by what parted them.",
               (total(rate("qwenserve_gateway_failovers_total"), "cause"), "{{cause}}"), PER_SECOND, width=6,
               alerts=("QwenserveFailoversHigh", "QwenserveSuspectedPoison")),
    timeseries("Workers lost", "As the gateways saw it: one loss is counted by each of them.",
               (total(rate("qwenserve_gateway_workers_lost_total"), "role"), "{{role}}"), PER_SECOND, width=6,
               alerts=("QwenserveWorkersLost", "QwenserveRestarts")),
    timeseries("Preemptions", "Answers put back for want of KV blocks, to be computed again.",
               (total(rate("qwenserve_preemptions_total", OF_MODEL), "pod"), "{{pod}}"), PER_SECOND, width=6,
               alerts=("QwenserveKvCacheFull",)),
])

PROCESSES = ("Processes", [
    timeseries("CPU", "Cores that each process uses.", (rate("process_cpu_seconds_total"), "{{pod}}"), COUNT),
    timeseries("Memory", "Resident memory.", (gauge("process_resident_memory_bytes"), "{{pod}}"), BYTES),
    timeseries("File descriptors", "Part of the limit that is open.",
               (f'{gauge("process_open_fds")} / {gauge("process_max_fds")}', "{{pod}}"), RATIO, top=1,
               alerts=("QwenserveDescriptorsNearLimit",), thresholds=steps(GREEN, (0.8, RED))),
    timeseries("Prompts prepared", "By the tokenizers.",
               (total(rate("qwenserve_tokenizer_prepare_requests_total"), "pod"), "{{pod}}"), REQUESTS_PER_SECOND, width=6),
    timeseries("Time to prepare a prompt", "In a tokenizer, without the way there.",
               quantiles("qwenserve_tokenizer_prepare_duration_seconds"), SECONDS, width=6),
    table("What runs", "Every process and its version.",
          (gauge("qwenserve_build_info"), ""), hidden=("component",), width=12, alerts=("QwenserveMixedVersions",)),
])

FLEET_DASHBOARD = dashboard(
    "qwenserve-fleet", "qwenserve / Fleet", "All gateways, tokenizers and generators of a release.",
    [NAMESPACE, RELEASE, MODEL], [NOW, TRAFFIC, LATENCY, MODELS, TROUBLE, PROCESSES])
