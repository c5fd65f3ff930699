"""The chat page in a real browser against real processes: what the tests of it share.

    from chat_page import browser, chat, cluster, needs_browser  # fixtures
    pytestmark = needs_browser
"""

import json

import pytest

from browser import Browser, find_program
from sim_cluster import SimCluster

XSS = """<img src=x onerror="window.pwned=1"><script>window.pwned=2</script>

# <svg onload=window.pwned=3>

[one](javascript:window.pwned=4) [two](data:text/html,<script>window.pwned=5</script>) [three](//evil.example/)
[four](https://good.example/" onmouseover="window.pwned=6) ![five](https://good.example/pixel.png)
<a href="javascript:window.pwned=7">six</a> https://good.example/?a=<b>"'

| <b>bold</b> | `<i>` |
|---|---|
| <iframe src="javascript:window.pwned=8"> | &lt;script&gt; |

```html"><script>window.pwned=9</script>
</code></pre><script>window.pwned=10</script>
```
"""

MARKDOWN = """# Top

Some **bold**, *slanted*, ***both***, ~~gone~~ and `a < b` with [a link](https://example.org/x_y_z).
2 * 3 * 4 stays, snake_case_name too.

## List

1. one
   - inner **a**
   - inner b
2. two

- [x] done
- [ ] open

> quoted

| a | b |
|:--|--:|
| 1 | 2\\|3 |

```go
\tfunc main() { **not bold** }
```
"""

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'

# The first rule counts whose text is anywhere in the prompt: conversations are new ones but where said.
SCRIPT = [
    {"when": "<tool_response>", "answer": "It is **sunny** in Ulm."},
    {"when": "weather", "answer": CALL},
    {"when": "a pirate", "answer": "Arr!"},
    {"when": "attack", "answer": XSS},
    {"when": "format", "answer": MARKDOWN},
    {"when": "ponder", "answer": "<think>\nHm, let me see.\n</think>\n\nYes."},
    {"when": "paced", "length": 2000, "step_delay": 0.01},
    {"when": "refuse", "fault": "refuse"},
    {"when": "sampled", "length": 12},
    {"answer": "All right."},
]

needs_browser = pytest.mark.skipif(find_program() is None, reason="this distribution has no browser for it")


@pytest.fixture(scope="module")
def cluster():
    cluster = SimCluster(generator_flags=("--sim-step-ms", 1), script=SCRIPT)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


def address(gateway):
    return f"http://{gateway.addresses['http']}/"


@pytest.fixture
def chat(browser, cluster):
    """A page in a new profile. What the page or its policy complains about fails the test."""
    page = Chat(browser, address(cluster.gateway))
    yield page
    page.check()
    page.close()


class Chat:
    def __init__(self, browser, url, **options):
        self.page = browser.open(url, **options)
        self.expected = ()  # substrings of complaints that belong to the test
        self.page.wait("document.getElementById('model').value")

    def check(self):
        unexpected = [p for p in self.page.problems if not any(e in p for e in self.expected)]
        assert unexpected == []
        assert self.page.run("policyViolations") == []

    def close(self):
        self.page.close()

    def ask(self, text, wait=True):
        self.page.run("document.getElementById('input').focus()")
        self.page.type(text)
        self.page.press("Enter")
        if wait:
            self.wait_idle()

    def wait_idle(self):
        self.page.wait("document.getElementById('send').getAttribute('aria-label') === 'Send' && "
                       "document.querySelector('.answer:last-child[aria-busy=false]')")

    def wait_text(self):
        self.page.wait("document.querySelector('.answer:last-child .md').innerText.length > 20")

    def answers(self):
        return self.page.texts(".answer .md")

    def questions(self):
        return self.page.texts(".bubble")

    def button(self, label):
        self.page.click(f'[aria-label="{label}"]')

    def click_text(self, selector, text):
        """The button in `selector` that says `text`."""
        self.page.wait(f"[...document.querySelectorAll({json.dumps(selector)})].some((b) => b.innerText === {json.dumps(text)})")
        self.page.run(f"[...document.querySelectorAll({json.dumps(selector)})].find((b) => b.innerText === {json.dumps(text)}).click()")

    def settings(self, **values):
        self.page.click("#open-settings")
        for name, value in values.items():
            self.page.run(f"document.getElementById('{name}').value = {json.dumps(value)}")
        self.page.click("#settings .primary")

    def stored(self):
        return self.page.run("Object.keys(localStorage).filter((k) => k.startsWith('qwenserve.chat.'))"
                             ".map((k) => JSON.parse(localStorage[k]))")
