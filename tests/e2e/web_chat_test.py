"""The files of the chat page, its answers and what goes wrong with them."""

import json
import re
import urllib.error
import urllib.request

import pytest

from chat_page import Chat, address, browser, chat, cluster, needs_browser  # noqa: F401
from security import key_line, write_keys
from server_process import ROOT
from sim_cluster import SimCluster

WEB = ROOT / "services" / "gateway" / "web"
MAX_BYTES = 100 * 1000
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}]

pytestmark = needs_browser


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
    chat.settings(max_tokens="30")
    chat.ask("a paced answer")
    assert re.search(r"30 tokens · [\d.]+ tokens/s · first after \d+ ms · prompt \d+", page.text(".answer .stats"))


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

def test_a_busy_server_is_told_and_asked_again_when_it_says(browser, cluster):
    gateway = cluster.start_gateway(flags=("--max-requests", 1))
    chat = Chat(browser, address(gateway))
    page = chat.page
    chat.expected = ("status of 429",)
    chat.ask("a paced answer", wait=False)
    chat.wait_text()
    page.click("#new-chat")
    chat.ask("hello")
    assert "The server is busy." in page.text(".problem") and "1 of 1" in page.text(".problem")
    assert page.run("document.querySelector('.problem button').disabled")
    assert re.fullmatch(r"Try again in \d+ s", page.text(".problem button"))
    chat.click_text(".open", "a paced answer")
    chat.button("Stop")
    chat.wait_idle()
    chat.click_text(".open", "hello")
    page.wait("!document.querySelector('.problem button').disabled")
    chat.click_text(".problem button", "Try again")
    chat.wait_idle()
    assert chat.answers() == ["All right."]
    # What comes after the head of the stream is told too.
    page.click("#new-chat")
    chat.ask("refuse")
    assert page.text(".problem span") == "The server is busy. the script refuses this prompt"
    chat.check()
    chat.close()
    gateway.kill()


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
    write_keys(keys, key_line("sesame", "one"))
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
    assert all("401" in problem for problem in page.problems) and page.run("policyViolations") == []
    page.close()
    gateway.kill()


def test_the_demo_model_answers(browser, shared_cluster):
    chat = Chat(browser, address(shared_cluster.gateway))
    chat.ask("What is qwenserve?")
    assert "qwenserve" in chat.answers()[0] and len(chat.answers()[0]) > 40
    chat.check()
    chat.close()
