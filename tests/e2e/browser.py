"""A headless Chromium, driven by the Chrome DevTools Protocol over a pair of pipes: no driver, no port.

    with Browser() as browser:
        page = browser.open("http://127.0.0.1:8080/", width=1200, height=800)
        page.type("hello"); page.press("Enter")
        page.wait("document.querySelector('.answer')")
        assert page.problems == []
"""

import base64
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATIENCE = 60

KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "Backspace": (8, ""), " ": (32, " ")}
SHIFT = 8

# Before anything of the page runs: what the browser refused is kept for the test.
WATCH_POLICY = """
window.policyViolations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.policyViolations.push(event.violatedDirective + " " + event.blockedURI));
"""


def find_program():
    """The browser's path, or None."""
    return next((found for found in map(shutil.which, PROGRAMS) if found), None)


class Browser:
    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()

        def place_pipes():
            """The browser reads descriptor 3 and writes 4."""
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (read_commands, write_answers)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)
            os.close(high[0])
            os.close(high[1])

        self._process = subprocess.Popen(
            [find_program(), "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--force-color-profile=srgb",
             f"--user-data-dir={self._folder.name}", "about:blank"],
            close_fds=False, preexec_fn=place_pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_commands)
        os.close(write_answers)
        self._changed = threading.Condition()
        self._results = {}
        self._events = {}  # handlers by session
        self._last_id = 0
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        self._folder.cleanup()

    def _read(self):
        with os.fdopen(self._answers, "rb") as pipe:
            rest = b""
            while piece := pipe.read1(1 << 20):
                *messages, rest = (rest + piece).split(b"\0")
                for message in map(json.loads, messages):
                    self._take(message)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, message):
        if "id" not in message:
            handler = self._events.get(message.get("sessionId"))
            if handler:
                handler(message["method"], message["params"])
            return
        with self._changed:
            self._results[message["id"]] = message
            self._changed.notify_all()

    def call(self, method, session=None, **params):
        with self._changed:
            self._last_id += 1
            number = self._last_id
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        with self._changed:
            done = self._changed.wait_for(lambda: number in self._results or self._ended, PATIENCE * 3)
            assert done and number in self._results, f"no answer to {method}"
            result = self._results.pop(number)
        if "error" in result:
            raise BrowserError(f"{method}: {result['error']}")
        return result["result"]

    def open(self, url, width=1200, height=800, phone=False):
        """A page in a profile of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, context, url, width, height, phone)

    def on_event(self, session, handler):
        self._events[session] = handler


class BrowserError(Exception):
    """What the browser itself says of a command, not the page."""


class Page:
    def __init__(self, browser, session, context, url, width, height, phone):
        self.browser = browser
        self.session = session
        self.context = context
        self.problems = []  # errors and warnings of the console, exceptions
        browser.on_event(session, self._on_event)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")
        self.resize(width, height, phone)
        self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH_POLICY)
        self.go(url)

    def _on_event(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def close(self):
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    def downloads_to(self, folder):
        self.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder),
                          browserContextId=self.context)

    def choose_file(self, selector, path):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self):
        self.run("window.old = true")
        self.call("Page.reload")
        self.wait("!window.old && document.readyState === 'complete'")

    def resize(self, width, height, phone=False, scale=1):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)

    def media(self, **features):
        """media(prefers_color_scheme="dark")"""
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": name.replace("_", "-"), "value": value} for name, value in features.items()])

    def run(self, script):
        """The value of an expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True,
                           userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, patience=PATIENCE):
        """Until the expression is true."""
        deadline = time.monotonic() + patience
        while True:
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except BrowserError as error:  # of a page that another one replaced meanwhile
                assert time.monotonic() < deadline, f"{condition}: {error}"
                continue
            assert time.monotonic() < deadline, f"{condition}: {self.run('document.body.innerText')[-1500:]}"
            time.sleep(0.02)

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText")

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.innerText)")

    def click(self, selector):
        """With the mouse, in the middle of the element."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'nearest'}})")
        x, y = self.run(f"""(() => {{
            const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key, shift=False):
        code, text = KEYS[key]
        common = dict(key=key, code={" ": "Space"}.get(key, key), windowsVirtualKeyCode=code,
                      modifiers=SHIFT if shift else 0)
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def accessible(self):
        """[(role, name)] of the accessibility tree, without what screen readers skip."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", ""))
                for node in nodes if not node["ignored"]]

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))
