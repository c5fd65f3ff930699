"""The chat page in a real browser against real processes."""

import json
import pathlib
import random
import re
import urllib.error
import urllib.request

import pytest

from browser import Browser, find_program
from security import key_line
from server_process import ROOT
from sim_cluster import SimCluster

WEB = ROOT / "services" / "gateway" / "web"
MAX_BYTES = 100 * 1000

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
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}]

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

pytestmark = pytest.mark.skipif(find_program() is None, reason="this distribution has no browser for it")


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


def get(gateway, path, **headers):
    request = urllib.request.Request(address(gateway) + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


# ---- the files --------------------------------------------------------------------------------------

def test_the_page_is_small_and_asks_nobody_else():
    files = list(WEB.iterdir())
    assert sum(f.stat().st_size for f in files) <= MAX_BYTES
    for file in files:
        text = file.read_text()
        outside = set(re.findall(r"https?://[\w.-]+", text)) - {"http://www.w3.org", "https://html.spec.whatwg.org"}
        assert outside == set(), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), file
        assert file.suffix != ".html" or not re.search(r"\son\w+=|<style|\sstyle=", text), file


def test_the_files_are_served_whole_and_revalidated(cluster):
    for file in WEB.iterdir():
        path = "" if file.name == "index.html" else f"ui/{file.name}"
        status, headers, body = get(cluster.gateway, path)
        assert (status, body) == (200, file.read_bytes()), path
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        for part in ("default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        etag = headers["ETag"]
        for condition in (etag, f"W/{etag}", f'"other", {etag}'):
            status, headers, body = get(cluster.gateway, path, **{"If-None-Match": condition})
            assert (status, body, headers["ETag"], headers["Content-Length"]) == (304, b"", etag, None)
        assert get(cluster.gateway, path, **{"If-None-Match": '"other"'})[0] == 200
    assert get(cluster.gateway, "ui/index.html")[0] == get(cluster.gateway, "ui/../main.cc")[0] == 404


def test_without_the_page_there_is_the_api_only(cluster):
    gateway = cluster.start_gateway(flags=("--no-ui",))
    for path in ("", "ui/app.js"):
        assert get(gateway, path)[0] == 404
    assert get(gateway, "v1/models")[0] == 200
    gateway.kill()


# ---- answers ----------------------------------------------------------------------------------------

def test_an_answer_streams_and_says_what_it_cost(chat):
    chat.ask("a paced answer", wait=False)
    chat.wait_text()
    page = chat.page
    early = chat.answers()[0]
    assert page.run("document.querySelector('.answer').getAttribute('aria-busy')") == "true"
    page.wait(f"document.querySelector('.answer .md').innerText.length > {len(early)} + 50")
    page.wait("/≈ [0-9.]+ tokens/.test(document.querySelector('.stats').innerText)")
    chat.button("Stop")
    chat.wait_idle()
    assert chat.answers()[0].startswith(early[:20])
    page.click("#new-chat")
    chat.ask("hello")
    assert chat.answers() == ["All right."]
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s · first after \d+ ms · prompt \d+", page.text(".answer .stats"))


@pytest.mark.parametrize("way", ["button", "key"])
def test_stopping_frees_the_generator_and_the_answer_can_go_on(chat, cluster, way):
    chat.ask("a paced answer", wait=False)
    chat.wait_text()
    if way == "button":
        chat.button("Stop")
    else:
        chat.page.press("Escape")
    chat.wait_idle()
    cluster.wait_idle()
    partial = chat.answers()[0]
    assert "You stopped" in chat.page.text(".problem")
    chat.click_text(".problem button", "Go on")
    chat.page.wait(f"document.querySelector('.answer .md').innerText.length > {len(partial)} + 20")
    chat.page.press("Escape")
    chat.wait_idle()
    assert len(chat.answers()) == 1 and chat.answers()[0].startswith(partial)


def test_answering_again_draws_anew_unless_the_seed_is_given(chat):
    chat.settings(temperature="1")
    chat.ask("sampled")
    seen = {chat.answers()[0]}
    chat.button("Answer again")
    chat.wait_idle()
    seen.add(chat.answers()[0])
    assert len(seen) == 2 and chat.questions() == ["sampled"]
    chat.settings(temperature="1", seed="7")
    seen = set()
    for _ in range(2):
        chat.button("Answer again")
        chat.wait_idle()
        seen.add(chat.answers()[0])
    assert len(seen) == 1 and "seed 7" in chat.page.text(".stats")


def test_a_message_is_edited_and_asked_anew(chat):
    chat.ask("first")
    chat.ask("second")
    chat.button("Edit and send again")
    assert chat.page.run("document.activeElement.value") == "first"
    chat.page.press("Escape")
    assert chat.questions() == ["first", "second"]
    chat.button("Edit and send again")
    chat.page.type(" and sampled")
    chat.page.press("Enter")
    chat.wait_idle()
    assert chat.questions() == ["first and sampled"]
    assert len(chat.answers()) == 1 and chat.answers()[0] != "All right."


def test_the_system_prompt_reaches_the_model_and_stays_with_its_conversation(chat):
    chat.settings(system="You are a pirate.")
    chat.ask("hello")
    assert chat.answers() == ["Arr!"]
    assert "You are a pirate." in chat.page.run("document.querySelector('.system').textContent")
    chat.page.click("#new-chat")
    chat.ask("hello")
    assert chat.answers() == ["All right."]


def test_parameters_limit_the_answer_and_wrong_ones_are_told(chat):
    chat.settings(max_tokens="3")
    chat.ask("a paced answer")
    assert len(chat.answers()[0].split()) == 3 and "limit of tokens" in chat.page.text(".problem")
    chat.page.click("#open-settings")
    chat.page.run("document.getElementById('top_p').value = '7'")
    chat.page.click("#settings .primary")
    assert chat.page.run("document.getElementById('settings').open")
    chat.page.run("document.getElementById('top_p').value = ''; document.getElementById('tools').value = '{'")
    chat.page.click("#settings .primary")
    assert chat.page.text("#tools-error").startswith("Tools: ")
    chat.page.click("#close-settings")
    chat.settings(max_tokens="9999999")
    chat.expected = ("status of 400",)
    chat.ask("more")
    assert "max_tokens" in chat.page.text(".problem:last-child, .answer:last-child .problem")


def test_thoughts_are_folded_away(chat):
    chat.ask("ponder")
    assert chat.answers() == ["Yes."]
    page = chat.page
    assert page.run("document.querySelector('.reasoning').open") is False
    assert page.text(".reasoning summary").startswith("Thought")
    page.click(".reasoning summary")
    assert page.text(".reasoning p").strip() == "Hm, let me see."


def test_tool_calls_are_shown_and_take_results(chat):
    chat.settings(tools=json.dumps(TOOLS))
    chat.ask("weather?")
    page = chat.page
    assert "Calls weather" in page.text(".tool summary") and '"city": "Ulm"' in page.text(".tool code")
    page.run("document.querySelector('.tool-results textarea').focus()")
    page.type('{"sky": "clear"}')
    chat.click_text(".tool-results button", "Send the result")
    chat.wait_idle()
    assert chat.answers()[-1] == "It is sunny in Ulm."


# ---- what goes wrong --------------------------------------------------------------------------------

def test_a_busy_server_is_told_and_asked_again_when_it_says(chat):
    chat.expected = ("status of 429",)
    chat.ask("refuse")
    page = chat.page
    assert "busy" in page.text(".problem")
    stored = chat.stored()[0]["messages"][-1]["meta"]["error"]
    assert stored["status"] == 429 and stored["retryAt"] > 0
    # Far enough away to be seen counting.
    page.run("""(() => { const key = Object.keys(localStorage).find((k) => k.startsWith('qwenserve.chat.'));
        const chat = JSON.parse(localStorage[key]);
        chat.messages.at(-1).meta.error.retryAt = Date.now() + 2500;
        localStorage[key] = JSON.stringify(chat); })()""")
    page.reload()
    page.wait("document.querySelector('.problem button')?.disabled")
    assert re.fullmatch(r"Try again in [123] s", page.text(".problem button"))
    page.wait("!document.querySelector('.problem button').disabled")
    assert page.text(".problem button") == "Try again"


def test_an_answer_goes_on_after_the_gateway_was_lost(browser):
    cluster = SimCluster(generator_flags=("--sim-step-ms", 5), script=[{"length": 3000}])
    try:
        chat = Chat(browser, address(cluster.gateway))
        chat.expected = ("Failed to load", "net::ERR", "Network error")
        chat.ask("anything", wait=False)
        chat.wait_text()
        cluster.gateway.kill()
        chat.wait_idle()
        partial = chat.answers()[0]
        assert "connection to the server was lost" in chat.page.text(".problem")
        chat.click_text(".problem button", "Go on")
        chat.page.wait("document.querySelector('.problem')?.innerText.includes('cannot be reached')")
        assert chat.answers() == [partial]
        cluster.restart(cluster.gateways, 0)
        chat.click_text(".problem button", "Go on")
        chat.page.wait(f"document.querySelector('.answer .md').innerText.length > {len(partial)} + 20")
        chat.page.press("Escape")
        chat.wait_idle()
        assert chat.answers()[0].startswith(partial)
        chat.check()
        chat.close()
    finally:
        cluster.stop()


def test_a_key_is_asked_for_and_forgotten_with_the_tab(browser, cluster, tmp_path):
    keys = tmp_path / "keys.jsonl"
    keys.write_text(key_line("sesame", "one") + "\n")
    gateway = cluster.start_gateway(flags=("--api-keys", keys))
    page = browser.open(address(gateway))
    for key in ("wrong", "sesame"):
        page.wait("document.getElementById('key-dialog').open")
        page.type(key)
        page.press("Enter")
    page.wait("document.getElementById('model').value === 'sim'")
    page.wait("!document.getElementById('key-dialog').open")
    page.run("document.getElementById('input').focus()")
    page.type("hello")
    page.press("Enter")
    page.wait("document.querySelector('.answer .md')?.innerText === 'All right.'")
    assert "sesame" not in page.run("JSON.stringify(localStorage)")
    assert page.run("sessionStorage['qwenserve.key']") == "sesame"
    keys.write_text(key_line("other", "one") + "\n")
    assert all("401" in problem for problem in page.problems) and page.run("policyViolations") == []
    page.close()
    gateway.kill()


# ---- text that models write -------------------------------------------------------------------------

INERT = """(() => {
  const allowed = {A: ["href", "title", "target", "rel"]};
  const bad = [];
  for (const node of document.querySelectorAll(".md *")) {
    if (/^(IMG|SCRIPT|IFRAME|OBJECT|EMBED|STYLE|LINK|FORM|INPUT|META|BASE)$/.test(node.tagName)) bad.push(node.tagName);
    if (node.tagName === "A" && !(/^https?:$/.test(node.protocol) && node.rel.includes("noopener"))) bad.push(node.href);
    for (const { name } of node.attributes) if (name.startsWith("on") || name === "style" || name === "src") bad.push(name);
  }
  return bad;
})()"""


def test_hostile_text_stays_text(chat):
    chat.ask("attack <img src=x onerror=window.pwned=0>")
    page = chat.page
    page.run("document.querySelectorAll('.md *').forEach((node) => "
             "node.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})))")
    assert page.run(INERT) == [] and page.run("window.pwned") is None
    text = page.run("document.querySelector('.md').textContent")
    for shown in ('<img src=x onerror="window.pwned=1">', "<svg onload=window.pwned=3>", "javascript:window.pwned=4",
                  "</code></pre><script>window.pwned=10</script>", "&lt;script&gt;"):
        assert shown in text
    assert chat.questions() == ["attack <img src=x onerror=window.pwned=0>"]
    assert page.texts(".open") == ["attack <img src=x onerror=window.pwned=0>"]
    # Even a mistake in the page could not make markup of text.
    assert "TrustedHTML" in page.run("(() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.message; } })()")
    chat.expected = ("TrustedHTML",)
    assert page.run("policyViolations.splice(0).length") == 1


def test_markdown_becomes_structure(chat):
    chat.ask("format")
    page = chat.page
    count = lambda selector: page.run(f"document.querySelectorAll('.md {selector}').length")
    assert page.texts(".md h3, .md h4") == ["Top", "List"]
    assert page.texts(".md > p strong")[0] == "bold" and page.texts(".md > p em") == ["slanted", "both"]
    assert page.texts(".md > p code, .md del") == ["gone", "a < b"]
    assert "2 * 3 * 4 stays, snake_case_name too." in page.text(".md")
    assert page.run("document.querySelector('.md a').href") == "https://example.org/x_y_z"
    assert count("ol > li") == 2 and count("ol > li > ul > li") == 2 and count("li.task-item") == 2
    assert page.texts(".md td") == ["1", "2|3"] and page.text(".md blockquote") == "quoted"
    assert page.run("document.querySelector('.md pre').textContent") == "\tfunc main() { **not bold** }"
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    chat.button("Copy code")
    page.wait("window.copied === '\\tfunc main() { **not bold** }'")
    chat.button("Copy answer")
    page.wait(f"window.copied?.trim() === {json.dumps(MARKDOWN.strip())}")


def test_markdown_survives_any_text(chat):
    """Whatever is thrown at it: nothing but text, the same at once as piece by piece, and no hang."""
    random_text = random.Random(5)
    pieces = ["*", "**", "_", "`", "```", "\n", "\n\n", "# ", "- ", "1. ", "> ", "|", "|-|", "[", "](", ")", "a", " ", "  ",
              "\\", "~~", "<b>", "https://x.y/", "![", "\t", "é", "😀", "-", "---\n", "    "]
    texts = ["".join(random_text.choices(pieces, k=random_text.randrange(1, 60))) for _ in range(400)]
    long = [mark * 50000 for mark in ("[", "*a **b ", "`", "> ", "- ", "|", "a|", "\n", "_", "[](", "h", "http://", "(", "~~", "  ")]
    long += ["- a" + "\n" * 100000 + "b", "|" * 1000 + "\n" + "|-" * 1000, "- " * 3000, "a " * 100000 + "\n-"]
    page = chat.page
    page.run("import('./ui/markdown.js').then((module) => { window.md = module.renderMarkdown; })")
    result = page.run(f"""(() => {{
        const whole = (text) => {{ const box = document.createElement("div"); box.className = "md"; md(box, text, () => 0); return box; }};
        const differ = [];
        for (const text of {json.dumps(texts)}) {{
          const box = document.createElement("div");
          for (let i = 1; i <= text.length; i += 1) md(box, text.slice(0, i), () => 0);
          box.className = "md";
          if (box.outerHTML !== whole(text).outerHTML) differ.push(text);
          document.body.append(box);
        }}
        for (const text of {json.dumps(long)}) whole(text);
        const bad = {INERT};
        document.querySelectorAll("body > .md").forEach((box) => box.remove());
        return [differ, bad];
      }})()""")
    assert result == [[], []]


# ---- conversations ----------------------------------------------------------------------------------

def test_conversations_survive_a_reload(chat, tmp_path):
    page = chat.page
    chat.ask("number one")
    page.click("#new-chat")
    chat.ask("number two")
    page.reload()
    page.wait("document.querySelectorAll('.open').length === 2")
    assert page.texts(".open") == ["number two", "number one"] and chat.questions() == ["number two"]
    chat.click_text(".open", "number one")
    assert chat.questions() == ["number one"] and chat.answers() == ["All right."]
    # Export, delete, undo, delete, import.
    folder = tmp_path / "downloads"
    page.downloads_to(folder)
    page.click("#export")
    file = folder / "qwenserve-conversations.json"
    page.wait("true")
    deadline = 200
    while not file.exists() and deadline:
        page.run("new Promise((done) => setTimeout(done, 50))")
        deadline -= 1
    exported = json.loads(file.read_text())
    assert [c["title"] for c in exported] == ["number two", "number one"]
    chat.button("Delete “number one”")
    assert page.texts(".open") == ["number two"]
    chat.click_text(".toast button", "Undo")
    page.wait("document.querySelectorAll('.open').length === 2")
    page.click("#delete-all")
    assert page.texts(".open") == [] and chat.stored() == []
    page.choose_file("#import-file", file)
    page.wait("document.querySelectorAll('.open').length === 2")
    broken = tmp_path / "broken.json"
    broken.write_text('{"messages": 5}')
    page.choose_file("#import-file", broken)
    page.wait("document.querySelector('.toast')?.innerText.startsWith('Not imported')")


def test_the_storage_is_bounded_and_says_what_it_drops(chat):
    page = chat.page
    page.run("""for (let i = 0; i < 100; i += 1) localStorage["qwenserve.chat.old" + i] = JSON.stringify(
        {id: "old" + i, title: "old " + i, created: 1, updated: i + 1, settings: {}, messages: []})""")
    chat.ask("hello")
    titles = [c["title"] for c in chat.stored()]
    assert len(titles) == 100 and "hello" in titles and "old 0" not in titles and "old 1" in titles
    assert "1 of the oldest" in page.text(".toast")
    # Full by size: room is made as well.
    page.run("""localStorage["qwenserve.chat.old1"] = JSON.stringify({id: "old1", title: "big", created: 1, updated: 1,
        settings: {}, messages: [{role: "user", content: "x".repeat(4500000)}]})""")
    chat.ask("again")
    titles = [c["title"] for c in chat.stored()]
    assert "big" not in titles and "old 2" in titles and "hello" in titles


def test_an_answer_comes_on_while_another_conversation_is_read(chat):
    page = chat.page
    chat.ask("a paced answer", wait=False)
    chat.wait_text()
    page.click("#new-chat")
    chat.ask("hello")
    assert chat.answers() == ["All right."]
    chat.click_text(".open", "a paced answer")
    before = len(chat.answers()[0])
    page.wait(f"document.querySelector('.answer .md').innerText.length > {before} + 20")
    page.reload()  # in the middle of it
    page.wait("document.querySelector('.problem')?.innerText.includes('interrupted')")
    assert len(chat.answers()[0]) > before


# ---- looks and access -------------------------------------------------------------------------------

def test_dark_mode_follows_the_system_or_the_choice(chat):
    page = chat.page
    brightness = lambda: page.run("getComputedStyle(document.body).backgroundColor")
    page.media(prefers_color_scheme="light")
    light = brightness()
    page.media(prefers_color_scheme="dark")
    dark = brightness()
    assert light == "rgb(255, 255, 255)" and dark != light
    chat.button("Theme: system")
    assert brightness() == light
    page.reload()
    assert brightness() == light
    chat.button("Theme: light")
    page.media(prefers_color_scheme="light")
    assert brightness() == dark


def test_a_phone_is_wide_enough(browser, cluster):
    chat = Chat(browser, address(cluster.gateway), width=360, height=740, phone=True)
    page = chat.page
    fits = lambda: page.run("document.documentElement.scrollWidth <= 360 && document.getElementById('scroll').scrollWidth <= 360")
    assert fits()
    chat.ask("format " + "w" * 300)
    assert fits()
    page.click("#new-chat") if False else None
    chat.button("Conversations")
    page.wait("getComputedStyle(document.getElementById('sidebar')).visibility === 'visible'")
    assert fits()
    page.press("Escape")
    page.wait("getComputedStyle(document.getElementById('sidebar')).visibility === 'hidden'")
    assert page.run("document.activeElement.id") == "open-sidebar"
    page.click("#open-settings")
    assert fits() and page.run("document.getElementById('settings').scrollWidth <= 360")
    chat.check()
    chat.close()


def test_a_conversation_by_keyboard_alone(chat):
    page = chat.page
    focus = lambda: page.run("document.activeElement.id || document.activeElement.getAttribute('aria-label') "
                             "|| document.activeElement.className")
    page.reload()
    page.wait("document.activeElement.id === 'input'")
    page.run("document.activeElement.blur(); document.body.focus()")
    page.run("getSelection().setPosition(document.body, 0)")
    page.press("Tab")
    assert focus() == "skip"
    page.press("Enter")
    assert focus() == "input"
    page.type("line one")
    page.press("Enter", shift=True)
    page.type("line two")
    assert chat.questions() == []
    page.press("Enter")
    chat.wait_idle()
    assert chat.questions() == ["line one\nline two"] and focus() == "input"
    seen = []
    for _ in range(30):
        page.press("Tab")
        seen.append(focus())
        if seen[-1] == "input":
            break
    page.wait("true")
    order = [name for name in seen if name in ("new-chat", "model", "theme", "open-settings", "Copy answer", "Answer again", "input")]
    assert order in (["new-chat", "model", "theme", "open-settings", "Copy answer", "Answer again", "input"],), seen
    page.press("Tab", shift=True)
    while focus() != "Answer again":
        page.press("Tab", shift=True)
    page.press(" ")
    chat.wait_idle()
    assert chat.answers() == ["All right."]


def test_screen_readers_find_names_and_hear_each_answer_once(chat):
    page = chat.page
    page.run("""window.spoken = []; new MutationObserver(() => {
        const text = document.getElementById("announcer").textContent;
        if (text) window.spoken.push(text); }).observe(document.getElementById("announcer"), {childList: true})""")
    chat.ask("ponder")
    page.wait("window.spoken.length >= 2")
    assert page.run("window.spoken") == ["The model is answering.", "Answer: Yes."]
    page.wait("document.querySelector('.answer .actions')")
    for dialog in (False, True):
        if dialog:
            page.click("#open-settings")
        tree = page.accessible()
        for role, name in tree:
            assert name or role not in ("button", "textbox", "combobox", "link", "spinbutton", "dialog", "article"), (role, tree)
        if not dialog:
            for found in (("navigation", "Conversations"), ("main", ""), ("textbox", "Message"), ("combobox", "Model"),
                          ("article", "You"), ("article", "Answer"), ("button", "Send"), ("heading", "Chat")):
                assert found in tree, tree
        else:
            for found in (("dialog", "Settings"), ("textbox", "System prompt"), ("spinbutton", "Temperature"),
                          ("spinbutton", "Seed"), ("combobox", "Thinking")):
                assert found in tree, tree
    # Nothing that changes with each token is live.
    assert page.run("document.querySelector('#messages').closest('[aria-live], [role=log], [role=status]')") is None
    page.media(prefers_reduced_motion="reduce")
    page.run("document.getElementById('settings').close()")
    assert page.run("getComputedStyle(document.querySelector('.dots i')).animationName") == "none"


def test_the_demo_model_answers(browser, shared_cluster):
    chat = Chat(browser, address(shared_cluster.gateway))
    chat.ask("What is qwenserve?")
    assert "qwenserve" in chat.answers()[0] and len(chat.answers()[0]) > 40
    chat.check()
    chat.close()
