"""The checker finds what it is there for: each way of spoiling a good log is told, and only as what it is."""

import copy

import pytest

import history


def good_log():
    def event(kind, t, **fields):
        return {"key": 7, "attempt": 0, "t": t, "event": kind, **fields}

    def delta(t, first, ids, text, **fields):
        return event("delta", t, choice=0, first=first, ids=ids, text=text, **fields)
    return [event("sent", 0.0, gateway=0), event("started", 0.1, seed=5),
            delta(0.2, 0, [3], "a", logprobs=[1]), delta(0.3, 1, [4, 5], "b", logprobs=[2, 3]),
            delta(0.4, 3, [6], "", calls=[[0, "call", "f", "{"]], logprobs=[4]),
            delta(1.5, 4, [8], "d", calls=[[0, "", "", "}"]], logprobs=[5]),
            event("finished", 1.6, choices=[[0, 2, 5, ""]]), event("status", 1.7, code="OK", reason="")]


def over_http(log):
    """The same without indexes, as the OpenAI API has none."""
    return [{name: value for name, value in event.items() if name != "first"} for event in log]


def judge(events, lost=(), protocol=lambda log: log):
    expected = {7: history.answer_of(protocol(good_log()))}
    events = protocol(events)
    verdict = history.check(events, expected, lost)
    return {name: getattr(verdict, name) for name in ("wrong", "missing", "doubled", "text", "endings")
            if getattr(verdict, name)}


def test_a_good_log_is_good():
    assert judge(good_log()) == {}


def wrong_token(log):
    log[3]["ids"][1] = 9


def lost_delta(log):
    del log[3]


def doubled_delta(log):
    log.insert(4, copy.deepcopy(log[3]))


def lost_end(log):
    del log[5]


def too_many_tokens(log):
    log.insert(6, {**log[5], "first": 5, "ids": [9], "text": "", "calls": [], "logprobs": []})


def lost_text(log):
    log[3]["text"] = ""


def other_logprob(log):
    log[3]["logprobs"][0] = 9


def broken_call(log):
    log[5]["calls"][0][3] = ""


def other_finish(log):
    log[6]["choices"][0][1] = 1


def two_finishes(log):
    log.insert(6, copy.deepcopy(log[6]))


def no_finish(log):
    del log[6]


def no_status(log):
    del log[7]


def two_statuses(log):
    log.append(copy.deepcopy(log[7]))


def failed(log):
    log[7]["code"] = "UNAVAILABLE"


def failed_in_the_middle(log):
    del log[5:7]
    log[5]["code"] = "UNAVAILABLE"


@pytest.mark.parametrize("spoil, kinds", [
    (wrong_token, {"wrong"}), (lost_delta, {"missing", "wrong", "text"}), (doubled_delta, {"doubled", "text"}),
    (lost_end, {"missing", "text"}), (too_many_tokens, {"wrong"}), (lost_text, {"text"}), (other_logprob, {"text"}),
    (broken_call, {"text"}), (other_finish, {"text"}), (two_finishes, {"endings"}), (no_finish, {"endings", "text"}),
    (no_status, {"endings"}), (two_statuses, {"endings"}), (failed, {"endings"}),
    (failed_in_the_middle, {"endings"})])
def test_a_spoiled_log_is_found(spoil, kinds):
    log = good_log()
    spoil(log)
    found = judge(log)
    assert found and set(found) <= kinds and (len(kinds) > 2 or set(found) == kinds), found


@pytest.mark.parametrize("spoil, kinds", [
    (wrong_token, {"wrong"}), (lost_delta, {"missing", "text"}), (doubled_delta, {"doubled", "text"}),
    (lost_end, {"missing", "text"}), (too_many_tokens, {"wrong"}), (lost_text, {"text"}), (other_logprob, {"text"}),
    (no_finish, {"endings", "text"}), (failed, {"endings"}), (failed_in_the_middle, {"endings"})])
def test_a_spoiled_log_over_http_is_found(spoil, kinds):
    assert judge(good_log(), protocol=over_http) == {}
    log = good_log()
    spoil(log)
    assert set(judge(log, protocol=over_http)) == kinds


def test_a_text_without_tokens_is_judged_by_itself():
    log = [{**event, "ids": [], "logprobs": []} if "ids" in event else event for event in over_http(good_log())]
    expected = {7: history.answer_of(log)}
    assert history.check(log, expected).faults() == 0 and history.check(log, expected).tokens == 4
    for number in (2, 3, 5):
        assert history.check(log[:number] + log[number + 1:], expected).faults() > 0
        assert history.check(log[:number] + [log[number]] + log[number:], expected).faults() > 0
    assert history.longest_gaps(log, 0.45, 3) == [pytest.approx(1.1)]


def test_a_repetition_needs_a_lost_gateway():
    log = good_log()
    failed_in_the_middle(log)
    log += [{**event, "attempt": 1, "t": event["t"] + 2} for event in good_log()]
    assert judge(log, lost=(0,)) == {}
    assert judge(log, lost=(1,)) == {"endings": 1}
    assert judge(log) == {"endings": 1}


def test_a_request_without_a_log_is_found():
    assert judge([]) == {"endings": 1}


def test_the_longest_gap_is_the_one_at_the_fault():
    assert history.longest_gaps(good_log(), 0.45, 3) == [pytest.approx(1.1)]
    assert history.longest_gaps(good_log(), 1.51, 3) == []
