"""Judges the clients' logs (streams.py) against the answers that nobody disturbed.

check(events, expected) -> Verdict; `expected`: {key: answer}, an answer as answer_of() makes it of the log
of an undisturbed stream. What each attempt received must be a beginning of the answer, token by token,
and all of it when the stream ended well; each attempt must end exactly once, each key exactly once well.
"""

import collections
import json


class Answer:
    """What one attempt has received of each choice."""

    def __init__(self):
        self.ids = collections.defaultdict(list)
        self.text = collections.defaultdict(str)
        self.reasoning = collections.defaultdict(str)
        self.logprobs = collections.defaultdict(list)
        self.calls = collections.defaultdict(dict)  # by number: [id, name, arguments]
        self.finish, self.deltas = None, 0

    def take(self, event):
        choice = event["choice"]
        self.ids[choice] += event["ids"]
        self.deltas += 1
        self.text[choice] += event["text"]
        self.reasoning[choice] += event.get("reasoning", "")
        self.logprobs[choice] += event.get("logprobs", [])
        for number, call_id, name, arguments in event.get("calls", []):
            call = self.calls[choice].setdefault(number, ["", "", ""])
            for part, piece in enumerate((call_id, name, arguments)):
                call[part] += piece

    def parts(self):
        """Everything but the ids, in an order that beginnings can be compared in."""
        for name in ("text", "reasoning", "logprobs"):
            for choice, value in getattr(self, name).items():
                yield name, choice, value
        for choice, calls in self.calls.items():
            for number, call in calls.items():
                for part, value in enumerate(call):
                    yield ("call", number, part), choice, value

    def part(self, name, choice):
        if isinstance(name, str):
            return getattr(self, name)[choice]
        _, number, part = name
        return self.calls[choice].get(number, ["", "", ""])[part]

    def same_text(self, other):
        names = {(name, choice) for answer in (self, other) for name, choice, _ in answer.parts()}
        return self.finish == other.finish and all(
            self.part(name, choice) == other.part(name, choice) for name, choice in names)


class Verdict:
    def __init__(self):
        self.wrong = self.missing = self.doubled = self.text = self.endings = 0
        self.streams = self.tokens = self.retries = 0
        self.complaints = []

    def faults(self):
        return self.wrong + self.missing + self.doubled + self.text + self.endings

    def complain(self, kind, key, attempt, message, count=1):
        setattr(self, kind, getattr(self, kind) + count)
        self.complaints.append(f"{kind}: {key} attempt {attempt}: {message}")


def read_log(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def by_attempt(events):
    """{key: {attempt: [event, ...]}} in the order of the log."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for event in events:
        found[event["key"]][event["attempt"]].append(event)
    return found


def answer_of(events):
    """The answer of an undisturbed attempt's events."""
    answer = Answer()
    for event in events:
        if event["event"] == "delta":
            answer.take(event)
        elif event["event"] == "finished":
            answer.finish = event["choices"]
    assert events[-1].get("code") == "OK" and answer.finish is not None, events[-1]
    return answer


def place_of(ids, have, wanted):
    """Where tokens belong that come without an index, as over HTTP: behind the others if those are wanted
    there, else where the nearest ones like them are."""
    if not ids or wanted[len(have):len(have) + len(ids)] == ids:
        return len(have)
    places = [place for place in range(len(wanted)) if wanted[place:place + len(ids)] == ids]
    return min(places, key=lambda place: abs(place - len(have)), default=len(have))


def check_tokens(verdict, key, attempt, event, got, wanted):
    """One delta's place and ids, before it is taken."""
    have = got.ids[event["choice"]]
    ids = event["ids"]
    first = event["first"] if "first" in event else place_of(ids, have, wanted.ids[event["choice"]])
    if first > len(have):
        verdict.complain("missing", key, attempt, f"token {len(have)} to {first - 1} never came", first - len(have))
    if first < len(have):
        verdict.complain("doubled", key, attempt, f"token {first} came again", min(len(have) - first, len(ids) or 1))
    right = wanted.ids[event["choice"]][first:first + len(ids)]
    differ = sum(1 for a, b in zip(ids, right) if a != b) + max(0, len(ids) - len(right))
    if differ:
        verdict.complain("wrong", key, attempt, f"{differ} of the tokens from {first} on", differ)


def check_attempt(verdict, key, attempt, events, wanted):
    """Returns the code that it ended with, None when it did not end."""
    got, code, started = Answer(), None, False
    for number, event in enumerate(events):
        kind = event["event"]
        if code is not None:
            verdict.complain("endings", key, attempt, f"{kind} behind the status")
        elif got.finish is not None and kind != "status":
            verdict.complain("endings", key, attempt, f"{kind} behind Finished")
        if kind == "started":
            if started or number != 1:
                verdict.complain("endings", key, attempt, "Started is not the first message")
            started = True
        elif kind == "delta":
            check_tokens(verdict, key, attempt, event, got, wanted)
            got.take(event)
        elif kind == "finished":
            got.finish = event["choices"]
        elif kind == "status":
            code = event["code"]
    # Without log-probabilities an event of HTTP is known by its text alone.
    verdict.tokens += sum(len(ids) for ids in got.ids.values()) or got.deltas
    for name, choice, value in got.parts():
        if wanted.part(name, choice)[:len(value)] != value:
            verdict.complain("text", key, attempt, f"{name} of choice {choice} is another one")
    if code == "OK":
        if got.finish is None or not started:
            verdict.complain("endings", key, attempt, "OK without Started or Finished")
        lost = sum(len(ids) - len(got.ids[choice]) for choice, ids in wanted.ids.items())
        if lost > 0:
            verdict.complain("missing", key, attempt, "the end of the answer", lost)
        if not got.same_text(wanted):
            verdict.complain("text", key, attempt, "the whole is another one")
    elif got.finish is not None and code != "STALLED":
        verdict.complain("endings", key, attempt, f"Finished, but {code}")
    return code


def check(events, expected, lost_gateways=()):
    """`lost_gateways`: numbers of those that clients may have had to leave. A request may be sent again
    for no other reason, so that a failed stream cannot hide behind a repetition."""
    verdict = Verdict()
    found = by_attempt(events)
    for key in expected.keys() - found.keys():
        verdict.complain("endings", key, 0, "no log")
    for key, attempts in found.items():
        verdict.streams += 1
        codes = [check_attempt(verdict, key, attempt, attempts[attempt], expected[key])
                 for attempt in sorted(attempts)]
        for attempt, code in enumerate(codes):
            last = attempts[attempt][-1]
            sent_to = attempts[attempt][0].get("gateway")
            if code is None:
                verdict.complain("endings", key, attempt, "no status")
            elif attempt < len(codes) - 1:
                verdict.retries += 1
                if sent_to not in lost_gateways:
                    verdict.complain("endings", key, attempt, f"{code} from gateway {sent_to}, which was not disturbed")
            elif code != "OK":
                verdict.complain("endings", key, attempt, f"{code} {last.get('reason', '')}")
    return verdict


def longest_gaps(events, when, count):
    """The `count` longest times between two tokens of a stream's choice of which the second came after
    `when`, and the first at most half a second after it: what readers noticed of a fault."""
    last, longest = {}, collections.defaultdict(float)
    for event in events:
        # Over gRPC text may come without tokens: it was held back, and nobody waits for it.
        if event["event"] != "delta" or ("first" in event and not event["ids"]):
            continue
        stream = (event["key"], event["attempt"], event["choice"])
        before = last.get(stream)
        if before is not None and event["t"] > when and before < when + 0.5:
            longest[stream] = max(longest[stream], event["t"] - before)
        last[stream] = event["t"]
    return sorted(longest.values(), reverse=True)[:count]
