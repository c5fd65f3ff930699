"""How late this machine runs a process that wants to run: what no server on it can be blamed for.

    probe = Lateness()        # a process of its own
    ...
    probe.stop()              # {"p50_s", "p99_s", "max_s", "times"}
"""

import json
import select
import subprocess
import sys
import time

SLEEP = 0.01


def watch():
    late, stop = [], False
    while not stop:
        begin = time.monotonic()
        stop = bool(select.select([sys.stdin], [], [], SLEEP)[0])
        late.append(time.monotonic() - begin - SLEEP)
    late = sorted(late[:-1] or [0.0])
    at = lambda part: round(late[min(len(late) - 1, int(part * len(late)))], 4)
    print(json.dumps({"p50_s": at(0.5), "p99_s": at(0.99), "max_s": round(late[-1], 4), "times": len(late)}))


class Lateness:
    def __init__(self):
        self._process = subprocess.Popen([sys.executable, __file__], text=True, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)

    def stop(self):
        """What it has found; another call says the same."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            self._found = json.loads(self._process.stdout.read())
            self._process.wait(10)
        return self._found


if __name__ == "__main__":
    watch()
