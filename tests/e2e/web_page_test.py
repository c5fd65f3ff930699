"""What the chat page makes of text, keeps in the browser and offers to eyes, ears and fingers."""

import json
import random
import time

from chat_page import MARKDOWN, Chat, address, browser, chat, cluster, needs_browser  # noqa: F401

pytestmark = needs_browser

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
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
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
    strange = tmp_path / "strange.json"
    strange.write_text(json.dumps([5, None, {"id": "../x", "title": {}, "settings": {"system": 5, "seed": "x", "tools": 1}, "messages": [
        {"role": "system"}, 7, {"role": "assistant", "content": "as it was", "tool_calls": [None],
         "meta": {"rate": "x", "usage": {"completion_tokens": "y"}, "error": {"message": {}}, "firstToken": []}}]}]))
    page.choose_file("#import-file", strange)
    page.wait("document.querySelectorAll('.open').length === 3")
    page.reload()
    page.wait("document.querySelectorAll('.open').length === 3")
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
    page.click("#open-sidebar")
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
    for _ in range(30):
        page.press("Tab", shift=True)
        if focus() == "skip":
            break
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
    order = [name for name in seen if name in ("new-chat", "model", "theme", "open-settings", "Copy answer", "Answer again", "input")]
    assert order == ["new-chat", "model", "theme", "open-settings", "Copy answer", "Answer again", "input"], seen
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
