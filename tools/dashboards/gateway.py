"""What clients get: objectives, latencies, admission, connections, keys and certificates."""

from grafana import (BYTES, COUNT, GREEN, PER_SECOND, RATIO, RED, REQUESTS_PER_SECOND, SECONDS, TOKENS_PER_SECOND, YELLOW,
                     constant, dashboard, heatmap, stat, steps, timeseries, variable)
from queries import (FLEET, GENERATE, MODEL, NAMESPACE, OF_MODEL, RELEASE, error_ratio, gauge, mean, quantile, quantiles,
                     rate, slow_ratio, total)

POD = 'pod=~"$pod"'
BUDGET = steps(RED, (0, YELLOW), (0.25, GREEN))

OBJECTIVES = ("Objectives", [
    stat("Requests that did not fail", "In the range of time shown. What fails by our fault, or is turned away by an overload, "
         "counts; what clients end or get wrong does not.", (f'1 - ({error_ratio("$__range")})', "available"), RATIO, width=4,
         decimals=3, alerts=("QwenserveAvailabilityBurnsFast", "QwenserveAvailabilityBurnsSlowly")),
    stat("Budget left", "Of the failures that the objective $availability allows for the range shown.",
         (f'1 - ({error_ratio("$__range")}) / (1 - $availability)', "left"), RATIO, width=4, thresholds=BUDGET),
    timeseries("Burn of the availability budget", "1 uses up exactly the budget. A page comes at 14.4 in an hour or 6 in six hours.",
               [(f'({error_ratio(window)}) / (1 - $availability)', window) for window in ("5m", "1h", "6h")], COUNT, width=16,
               height=8, alerts=("QwenserveAvailabilityBurnsFast", "QwenserveAvailabilityBurnsSlowly"),
               thresholds=steps(GREEN, (6, YELLOW), (14.4, RED))),
    stat("First tokens in time", "Part that took at most $first_token_seconds s, in the range of time shown.",
         (f'1 - ({slow_ratio("$__range")})', "in time"), RATIO, width=4, decimals=3,
         alerts=("QwenserveFirstTokenBurnsFast", "QwenserveFirstTokenBurnsSlowly")),
    stat("Budget left", "Of the late first tokens that the objective $first_token allows for the range shown.",
         (f'1 - ({slow_ratio("$__range")}) / (1 - $first_token)', "left"), RATIO, width=4, thresholds=BUDGET),
    timeseries("Burn of the first-token budget", "As above, for first tokens later than $first_token_seconds s.",
               [(f'({slow_ratio(window)}) / (1 - $first_token)', window) for window in ("5m", "1h", "6h")], COUNT, width=16,
               height=8, alerts=("QwenserveFirstTokenBurnsFast", "QwenserveFirstTokenBurnsSlowly"),
               thresholds=steps(GREEN, (6, YELLOW), (14.4, RED))),
])

LATENCY = ("Latency", [
    heatmap("Time to first token", "From a request's arrival to its first token.",
            total(rate("qwenserve_time_to_first_token_seconds_bucket", POD, OF_MODEL), "le"), alerts=("QwenserveFirstTokenBurnsFast",)),
    heatmap("Between tokens", "Between two tokens of one answer.", total(rate("qwenserve_inter_token_seconds_bucket", POD, OF_MODEL), "le")),
    timeseries("Time to first token by gateway", "For 95 of 100.",
               (quantile(0.95, "qwenserve_time_to_first_token_seconds", POD, OF_MODEL, by="pod"), "{{pod}}"), SECONDS, width=6),
    timeseries("Between tokens by gateway", "For 95 of 100.",
               (quantile(0.95, "qwenserve_inter_token_seconds", POD, OF_MODEL, by="pod"), "{{pod}}"), SECONDS, width=6),
    timeseries("Wait for a replica", "As it was foretold when the request came, and as it turned out, on average.",
               [(mean("qwenserve_gateway_predicted_wait_seconds", POD, OF_MODEL), "foretold"),
                (mean("qwenserve_gateway_queue_wait_seconds", POD, OF_MODEL), "was")], SECONDS, width=6, alerts=("QwenserveQueueGrows",)),
    timeseries("Gap when an answer moves", "From the last token at the replica that was lost to the first one elsewhere.",
               (f'{total(rate("qwenserve_gateway_failover_gap_seconds_sum", POD))} / '
                f'({total(rate("qwenserve_gateway_failover_gap_seconds_count", POD))} > 0) or vector(0)', "mean"), SECONDS,
               width=6, alerts=("QwenserveFailoversHigh",)),
])

REQUESTS = ("Requests", [
    timeseries("By gateway", "Requests that ended, per second. Uneven: clients hold few long connections.",
               (total(rate("qwenserve_gateway_requests_total", POD), "pod"), "{{pod}}"), REQUESTS_PER_SECOND, width=6),
    timeseries("In flight", "Requests that have not ended, and those of them that wait for a replica.",
               [(total(gauge("qwenserve_gateway_requests_in_flight", POD), "pod"), "{{pod}}"),
                (total(gauge("qwenserve_gateway_requests_waiting", POD), "pod"), "{{pod}} waiting")], width=6),
    timeseries("Failed by status", "By our fault: what counts against the objective.",
               (total(rate("qwenserve_gateway_requests_total", POD, GENERATE,
                           'code=~"UNAVAILABLE|INTERNAL|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED"'), "code"), "{{code}}"),
               PER_SECOND, width=6, alerts=("QwenserveAvailabilityBurnsFast",)),
    timeseries("Refused by status", "By the client's fault.",
               (total(rate("qwenserve_gateway_requests_total", POD,
                           'code=~"INVALID_ARGUMENT|NOT_FOUND|UNAUTHENTICATED|PERMISSION_DENIED|OUT_OF_RANGE"'), "code"),
                "{{code}}"), PER_SECOND, width=6),
    timeseries("Turned away", "For want of room (requests, bytes, queue_full, displaced, wait), time (deadline), quota, or "
               "because the client does not read.", (total(rate("qwenserve_gateway_sheds_total", POD), "cause"), "{{cause}}"),
               PER_SECOND, width=6, alerts=("QwenserveShedding",)),
    timeseries("Queue by model", "Requests that wait for a replica of the model.",
               (total(gauge("qwenserve_gateway_queue_depth", POD, OF_MODEL), "model"), "{{model}}"), width=6,
               alerts=("QwenserveQueueGrows",)),
    timeseries("Whole requests", "From arrival to the end, for 95 of 100, by method.",
               (quantile(0.95, "qwenserve_gateway_request_duration_seconds", POD, GENERATE, by="method"), "{{method}}"),
               SECONDS, width=6),
    timeseries("Clients that left", "Generations given up by the client, by how far they were.",
               (total(rate("qwenserve_gateway_cancels_total", POD), "stage"), "{{stage}}"), PER_SECOND, width=6),
    timeseries("Prompt length", "Tokens of a prompt.", quantiles("qwenserve_request_prompt_tokens", POD, OF_MODEL), COUNT, width=6),
    timeseries("Answer length", "Tokens of an answer.", quantiles("qwenserve_request_completion_tokens", POD, OF_MODEL), COUNT, width=6),
])

WORKERS = ("Workers, as the gateways see them", [
    timeseries("Ready", "Workers that can be given requests.",
               (gauge("qwenserve_gateway_workers_ready", POD), "{{role}}s of {{pod}}"), width=6,
               alerts=("QwenserveNoReadyGenerator", "QwenserveWorkersMissing")),
    timeseries("Listed but not ready", "Workers that discovery names and that are of no use.",
               (f'{gauge("qwenserve_gateway_workers_listed", POD)} - {gauge("qwenserve_gateway_workers_ready", POD)}',
                "{{role}}s of {{pod}}"), width=6, alerts=("QwenserveWorkersMissing", "QwenserveDiscoveryFails")),
    timeseries("Out of work", "Generators that get no requests because they are slow or fail.",
               (total(gauge("qwenserve_gateway_generators_out", POD), "pod, state"), "{{state}} at {{pod}}"), width=6),
    timeseries("Why there", "Placements by reason: a known prefix, the prefix's home, or the least load.",
               (total(rate("qwenserve_gateway_placements_total", POD), "reason"), "{{reason}}"), PER_SECOND, width=6),
    timeseries("Went on elsewhere", "Answers that lost their replica, by what parted them.",
               (total(rate("qwenserve_gateway_failovers_total", POD), "cause"), "{{cause}}"), PER_SECOND,
               alerts=("QwenserveFailoversHigh",)),
    timeseries("Given up", "Refusals not tried elsewhere, for too many were; and requests that two replicas were lost with.",
               [(total(rate("qwenserve_gateway_retry_budget_exhausted_total", POD)), "retry budget exhausted"),
                (total(rate("qwenserve_gateway_suspected_poison_total", POD)), "suspected poison")], PER_SECOND,
               alerts=("QwenserveSuspectedPoison", "QwenservePoisonRepeated")),
    timeseries("Look-ups that failed", "The last good list of workers stays in use.",
               (total(rate("qwenserve_gateway_discovery_failures_total", POD), "pod, source"), "{{source}} at {{pod}}"),
               PER_SECOND, alerts=("QwenserveDiscoveryFails",)),
])

EDGE = ("Connections", [
    timeseries("Open", "Connections of clients.",
               [(gauge("qwenserve_grpc_connections", POD, 'component="gateway"'), "gRPC {{pod}}"),
                (gauge("qwenserve_http_connections", POD), "HTTP {{pod}}")], width=6),
    timeseries("Refused", "Reset instead of accepted, by cause.",
               [(total(rate("qwenserve_grpc_connections_refused_total", POD, 'component="gateway"'), "cause"), "gRPC {{cause}}"),
                (total(rate("qwenserve_http_connections_refused_total", POD), "cause"), "HTTP {{cause}}")], PER_SECOND,
               width=6, alerts=("QwenserveConnectionsRefused",)),
    timeseries("HTTP trouble", "Malformed requests, failed TLS handshakes, clients that are too slow or leave before the end.",
               [(total(rate(f"qwenserve_http_{name}_total", POD)), legend) for name, legend in (
                   ("malformed_requests", "malformed"), ("tls_handshakes_failed", "handshake"), ("timeouts", "too slow"),
                   ("abandoned_requests", "left"))], PER_SECOND, width=6),
    timeseries("Connections at their limit", "Generations that took the last place of a gRPC connection: the client's next "
               "calls wait inside the client.",
               (total(rate("qwenserve_gateway_peers_at_stream_limit_total", POD), "pod"), "{{pod}}"), PER_SECOND, width=6),
])

KEYS = ("Keys, certificates, access log", [
    timeseries("Certificates end in", "Of the certificates in use; there are none without TLS.",
               (f'{gauge("qwenserve_tls_cert_not_after_seconds")} - time()', "{{file}} of {{pod}}"), SECONDS, width=6,
               alerts=("QwenserveCertificateExpires", "QwenserveCertificateExpiresSoon")),
    timeseries("Files read anew", "API keys and certificates that have changed, by result; there are none without both.",
               (total(f'increase(qwenserve_file_reloads_total{{{FLEET}}}[5m])', "file, result"), "{{file}} {{result}}"),
               width=6, alerts=("QwenserveReloadFails",)),
    timeseries("Requests without a valid key", "By what is wrong with it; there are none without API keys.",
               (total(rate("qwenserve_gateway_auth_failures_total", POD), "reason"), "{{reason}}"), PER_SECOND, width=6),
    timeseries("Access log", "Lines written, and dropped because the reader or the disk is too slow.",
               (total(rate("qwenserve_gateway_access_log_lines_total", POD), "result"), "{{result}}"), PER_SECOND, width=6,
               alerts=("QwenserveAccessLogDrops",)),
])

PROCESS = ("Processes", [
    timeseries("CPU", "Cores.", (rate("process_cpu_seconds_total", POD, 'component="gateway"'), "{{pod}}"), COUNT),
    timeseries("Memory", "Resident memory.", (gauge("process_resident_memory_bytes", POD, 'component="gateway"'), "{{pod}}"),
               BYTES),
    timeseries("Tokens", "Given to clients.", (total(rate("qwenserve_gateway_completion_tokens_total", POD, OF_MODEL), "pod"), "{{pod}}"),
               TOKENS_PER_SECOND),
])

GATEWAY_DASHBOARD = dashboard(
    "qwenserve-gateway", "qwenserve / Gateways and objectives", "What clients get from the gateways of a release.",
    [NAMESPACE, RELEASE, MODEL,
     variable("pod", "Gateway", f'label_values(qwenserve_build_info{{component="gateway",{FLEET}}}, pod)'),
     constant("availability", "0.999"), constant("first_token", "0.95"), constant("first_token_seconds", "2.5")],
    [OBJECTIVES, LATENCY, REQUESTS, WORKERS, EDGE, KEYS, PROCESS])
