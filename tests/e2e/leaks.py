"""What is left of requests when nobody asks for anything: nothing may be.

    remember(process)           # once it is ready: its descriptors are the measure
    ...
    wait_clean(processes)       # no sequence, KV block, request, session or descriptor too many
"""

import signal
import time

# Of each role: what must be 0.
QUIET = {
    "generator": ("qwenserve_sequences_running", "qwenserve_sequences_waiting", "qwenserve_kv_blocks_used",
                  "qwenserve_queued_prompt_tokens"),
    "gateway": ("qwenserve_gateway_requests_in_flight", "qwenserve_gateway_requests_waiting"),
    "tokenizer": (),
}
# Above the measure: a reconnect that is under way, a file that is read, the connection that asks.
SLACK = 4
# A process may have been measured before it was connected to all others: two streams, a connection that
# is being replaced.
SLACK_OF_A_PEER = 3
PATIENCE = 30


def total(series, name, *labels):
    """Sum of a metric's series that have all of these labels, written as `key="value"`."""
    values = [value for key, value in series.items()
              if key.split("{")[0] == name and all(label in key for label in labels)]
    assert values, f"no metric {name} {labels}"
    return sum(values)


def left_over(process, descriptors):
    """What a process still has, in words; `descriptors`: how many it may."""
    series = process.series()
    found = [f"{process.role} at {process.address}: {name} {value}" for name in QUIET[process.role]
             if (value := total(series, name)) != 0]
    if series["process_open_fds"] > descriptors:
        found.append(f"{process.role} at {process.address}: {series['process_open_fds']} descriptors, not {descriptors}")
    return found


def remember(process):
    process.descriptors = process.metric("process_open_fds")
    return process


def wait_clean(processes, patience=PATIENCE):
    """Of those that run, and were remembered; a stopped one goes on."""
    processes = [process for process in processes if process.running() and hasattr(process, "descriptors")]
    slack = SLACK + SLACK_OF_A_PEER * len(processes)
    for process in processes:
        process.signal(signal.SIGCONT)
    deadline = time.monotonic() + patience
    while left := [words for process in processes if process.running()
                   for words in left_over(process, process.descriptors + slack)]:
        assert time.monotonic() < deadline, f"still there after {patience} s: {left}"
        time.sleep(0.05)
