// The chat page: which conversation is shown, and the answers that are being written.

import { ApiError, listModels, streamChat } from "./api.js";
import { download, h, iconButton } from "./dom.js";
import { apiKey, askForKey, openSettings, requestOptions } from "./settings.js";
import * as store from "./store.js";
import { AnswerView, autoGrow, canGoOn, isSendKey, toolView, userView } from "./view.js";

const $ = (id) => document.getElementById(id);
const SAVE_EVERY = 2000; // milliseconds, while an answer comes
const SPOKEN = 1000; // characters of an answer that screen readers are told at its end

let shown = null; // the conversation on the screen
let models = [];
let stick = true; // the end of the conversation stays in sight
let leaving = false; // the browser cuts connections before it takes the page away
const runs = new Map(); // by conversation id: {conversation, message, controller, view, …}

// ---- telling ------------------------------------------------------------------------------------

// One message for the whole answer, not one for each token.
function announce(text) {
  $("announcer").textContent = "";
  requestAnimationFrame(() => { $("announcer").textContent = text; });
}

function toast(text, undo) {
  const node = h("div", { class: "toast" }, h("span", {}, text));
  const close = () => node.remove();
  if (undo) node.append(h("button", { type: "button", click: () => { undo(); close(); } }, "Undo"));
  $("toasts").replaceChildren(node);
  setTimeout(close, 10000);
}

function notice(text, retry) {
  $("notice").hidden = !text;
  $("notice").replaceChildren(h("span", {}, text ?? ""),
    ...(retry ? [h("button", { type: "button", class: "text-button", click: retry }, "Try again")] : []));
  if (text) announce(text);
}

function save(conversation) {
  try {
    const removed = store.save(conversation);
    if (removed > 0) toast(`${removed} of the oldest conversations had to go to make room.`);
  } catch {
    toast("This browser has no room to keep the conversation.");
  }
}

// ---- the list of conversations --------------------------------------------------------------------

function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  return first ? first.content.trim().split("\n")[0].slice(0, 80) : "New conversation";
}

function newConversation() {
  const now = Date.now();
  return { id: store.newId(), title: "", created: now, updated: now, settings: store.loadSettings(), messages: [] };
}

function open(id) {
  show(runs.get(id)?.conversation ?? store.load(id) ?? newConversation());
  closeSidebar();
  $("input").focus();
}

function renderList() {
  const items = store.all().map((conversation) => {
    const current = conversation.id === shown.id;
    return h("li", { class: current ? "current" : null },
      h("button", { type: "button", class: "open", title: conversation.title, "aria-current": current ? "true" : null,
        click: () => open(conversation.id) }, conversation.title || "Untitled"),
      iconButton("trash", `Delete “${conversation.title}”`, () => removeConversations([conversation])));
  });
  $("conversations").replaceChildren(...items);
}

function removeConversations(conversations) {
  for (const conversation of conversations) {
    runs.get(conversation.id)?.controller.abort();
    runs.delete(conversation.id);
    store.remove(conversation.id);
  }
  if (conversations.some(({ id }) => id === shown.id)) show(newConversation());
  renderList();
  $("input").focus();
  toast(conversations.length === 1 ? "Conversation deleted." : `${conversations.length} conversations deleted.`, () => {
    conversations.forEach(save);
    show(conversations[0]);
  });
}

async function importFile(file) {
  try {
    const json = JSON.parse(await file.text());
    const list = (Array.isArray(json) ? json : [json]).map(store.readConversation).filter(Boolean);
    if (list.length === 0) throw new Error("no conversation is in it");
    list.forEach(save);
    show(list[0]);
    toast(list.length === 1 ? "Conversation imported." : `${list.length} conversations imported.`);
  } catch (error) {
    toast(`Not imported: ${error.message}`);
  }
}

// ---- the conversation -----------------------------------------------------------------------------

const actions = {
  announce,
  edit(message, text) {
    const { messages } = shown;
    stop(shown.id);
    messages.length = messages.indexOf(message);
    ask(text);
  },
  regenerate() {
    if (runs.has(shown.id)) return;
    if (shown.messages.at(-1)?.role === "assistant") shown.messages.pop();
    show(shown);
    answer(shown);
  },
  goOn() {
    if (!runs.has(shown.id)) answer(shown, true);
  },
  sendResults(results) {
    shown.messages.push(...results);
    show(shown);
    answer(shown);
  },
};

function emptyState() {
  return h("div", { class: "empty" }, h("h2", {}, "What would you like to know?"),
    h("p", {}, "Conversations stay in this browser."));
}

function makeView(message, last) {
  if (message.role === "user") return userView(message, actions);
  if (message.role === "tool") return toolView(message);
  const view = new AnswerView(message, actions);
  const run = runs.get(shown.id);
  if (run?.message === message) run.view = view;
  view.update(run?.view === view ? run : null, last);
  return view.node;
}

function show(conversation) {
  const run = shown && runs.get(shown.id);
  if (run) run.view = null;
  shown = conversation;
  const { messages, settings } = conversation;
  const nodes = messages.map((message, i) => makeView(message, i + 1 === messages.length));
  if (settings.system) {
    nodes.unshift(h("details", { class: "system" }, h("summary", {}, "System prompt"), h("p", {}, settings.system)));
  }
  if (messages.length === 0) nodes.push(emptyState());
  $("messages").replaceChildren(...nodes);
  document.title = conversation.title ? `${conversation.title} – qwenserve` : "qwenserve";
  showModels();
  showSendButton();
  renderList();
  stick = true;
  scrollToEnd();
}

function scrollToEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function showSendButton() {
  const running = runs.has(shown.id);
  const send = $("send");
  send.setAttribute("aria-label", running ? "Stop" : "Send");
  send.title = running ? "Stop (Esc)" : "Send (Enter)";
  send.querySelector("use").setAttribute("href", running ? "#i-stop" : "#i-send");
}

function ask(text) {
  shown.messages.push({ role: "user", content: text });
  shown.title = shown.title && shown.messages.length > 1 ? shown.title : titleOf(shown);
  show(shown);
  answer(shown);
}

// ---- answers --------------------------------------------------------------------------------------

function wireMessages({ messages, settings }) {
  const wire = settings.system ? [{ role: "system", content: settings.system }] : [];
  for (const { role, content, reasoning, tool_calls: calls, tool_call_id: id } of messages) {
    // An answer of which nothing came says nothing.
    if (role === "assistant" && !content && !calls?.length) continue;
    const message = { role, content };
    if (reasoning) message.reasoning_content = reasoning;
    if (calls?.length) message.tool_calls = calls;
    if (id) message.tool_call_id = id;
    wire.push(message);
  }
  return wire;
}

function requestBody(conversation, goingOn) {
  const body = { messages: wireMessages(conversation), ...requestOptions(conversation.settings) };
  const model = conversation.settings.model ?? models[0]?.id;
  if (model) body.model = model;
  if (goingOn) Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
  return body;
}

function addCall(message, delta) {
  message.tool_calls ??= [];
  const call = message.tool_calls[delta.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } };
  if (delta.id) call.id = delta.id;
  call.function.name += delta.function?.name ?? "";
  call.function.arguments += delta.function?.arguments ?? "";
}

function take(run, chunk) {
  const { message } = run;
  const { meta } = message;
  meta.model = chunk.model;
  if (chunk.seed !== undefined) meta.seed = chunk.seed;
  if (chunk.usage) meta.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  if (choice.finish_reason) meta.finish = choice.finish_reason;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (!content && !reasoning && !calls) return;
  const now = performance.now();
  run.firstAt ??= now;
  run.lastAt = now;
  run.pieces += 1;
  if (run.pieces > 5) run.rate = (run.pieces - 1) / (now - run.firstAt) * 1000;
  if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
  if (content) {
    if (message.reasoning && !meta.thought) meta.thought = now - run.startedAt;
    message.content += content;
  }
  for (const call of calls ?? []) addCall(message, call);
}

// At most once in a frame, however fast the tokens come.
function showProgress(run) {
  if (run.frame) return;
  run.frame = requestAnimationFrame(() => {
    run.frame = 0;
    if (!runs.has(run.conversation.id) || !run.view) return;
    run.view.update(run, true);
    if (stick) scrollToEnd();
  });
}

function problemOf(error) {
  const problem = { message: error instanceof ApiError ? error.message : `This page failed: ${error.message}`, status: error.status };
  if (error.status === 429) problem.message = `The server is busy. ${error.message}`;
  if (error.param) problem.message += ` (${error.param})`;
  if (error.retryAfter > 0) problem.retryAt = Date.now() + error.retryAfter * 1000;
  return problem;
}

function finish(run) {
  const { conversation, message } = run;
  const { meta } = message;
  if (!leaving) delete meta.unfinished;
  if (run.firstAt) {
    meta.firstToken = run.firstAt - run.startedAt;
    const seconds = (run.lastAt - run.firstAt) / 1000;
    meta.rate = meta.usage?.completion_tokens > 1 && seconds > 0 ? (meta.usage.completion_tokens - 1) / seconds : 0;
  }
  // Not if it was deleted meanwhile.
  if (runs.get(conversation.id) !== run) return;
  runs.delete(conversation.id);
  conversation.updated = Date.now();
  save(conversation);
  if (run.view) {
    run.view.update(null, true);
    if (stick) scrollToEnd();
  }
  showSendButton();
  renderList();
  if (shown.id !== conversation.id) return;
  if (meta.error) announce(meta.error.message);
  else if (meta.stopped) announce("Stopped.");
  else announce(`Answer: ${message.content.slice(0, SPOKEN)}${message.content.length > SPOKEN ? " … and more" : ""}`);
}

async function answer(conversation, goingOn = false) {
  const last = conversation.messages.at(-1);
  const message = goingOn ? last : { role: "assistant", content: "", meta: {} };
  const body = requestBody(conversation, goingOn && canGoOn(message));
  message.meta = { unfinished: true, thought: goingOn ? message.meta?.thought : undefined };
  const run = { conversation, message, controller: new AbortController(), view: null, pieces: 0, rate: 0,
    startedAt: performance.now() };
  runs.set(conversation.id, run);
  if (!goingOn) conversation.messages.push(message);
  conversation.updated = Date.now();
  save(conversation);
  show(conversation);
  announce("The model is answering.");
  const saver = setInterval(() => store.load(conversation.id) && save(conversation), SAVE_EVERY);
  try {
    for await (const chunk of streamChat(body, apiKey(), run.controller.signal)) {
      take(run, chunk);
      showProgress(run);
    }
  } catch (error) {
    if (error.name === "AbortError") message.meta.stopped = true;
    else if (!leaving) message.meta.error = problemOf(error);
  }
  clearInterval(saver);
  finish(run);
  if (message.meta.error?.status === 401 && await askForKey(message.meta.error.message)) {
    loadModels();
    if (shown !== conversation) return;
    if (goingOn) actions.goOn();
    else actions.regenerate();
  }
}

function stop(id) {
  const run = runs.get(id);
  if (!run) return false;
  run.controller.abort();
  return true;
}

// ---- models ---------------------------------------------------------------------------------------

function showModels() {
  const names = models.map(({ id }) => id);
  const wanted = shown?.settings.model;
  const options = names.map((name) => h("option", { value: name }, name));
  if (wanted && !names.includes(wanted)) {
    options.unshift(h("option", { value: wanted }, models.length > 0 ? `${wanted} (not served)` : wanted));
  }
  if (options.length === 0) options.push(h("option", { value: "" }, "no model"));
  $("model").replaceChildren(...options);
  $("model").value = wanted ?? names[0] ?? "";
}

async function loadModels() {
  try {
    models = await listModels(apiKey());
    notice(models.length > 0 ? null : "No model is served yet.", models.length > 0 ? null : loadModels);
    showModels();
  } catch (error) {
    if (error.status === 401 && await askForKey(error.message)) return loadModels();
    notice(error.message, loadModels);
  }
}

function changeSettings(changed) {
  shown.settings = changed;
  const { system, ...others } = shown.settings;
  store.saveSettings(others);
  if (shown.messages.length > 0) save(shown);
  show(shown);
}

// ---- the page -------------------------------------------------------------------------------------

function closeSidebar() {
  $("page").classList.remove("sidebar-open");
  $("open-sidebar").setAttribute("aria-expanded", "false");
}

function openSidebar() {
  $("page").classList.add("sidebar-open");
  $("open-sidebar").setAttribute("aria-expanded", "true");
  requestAnimationFrame(() => $("close-sidebar").focus());
}

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-label", `Theme: ${theme}`);
  $("theme").title = `Theme: ${theme}`;
  try {
    localStorage.setItem("qwenserve.theme", theme);
  } catch {
    // It holds until the page is left.
  }
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (stop(shown.id)) return;
    const text = $("input").value.trim();
    if (!text) return;
    $("input").value = "";
    $("input").dispatchEvent(new Event("input"));
    ask(text);
  });
  $("input").addEventListener("keydown", (event) => {
    if (!isSendKey(event)) return;
    event.preventDefault();
    if (!runs.has(shown.id)) $("composer").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if ($("page").classList.contains("sidebar-open")) {
      closeSidebar();
      $("open-sidebar").focus();
    } else {
      stop(shown.id);
    }
  });
  $("scroll").addEventListener("scroll", () => {
    const { scrollHeight, scrollTop, clientHeight } = $("scroll");
    stick = scrollHeight - scrollTop - clientHeight < 60;
    $("to-end").hidden = stick;
  }, { passive: true });
  $("to-end").addEventListener("click", () => { scrollToEnd(); $("input").focus(); });
  $("new-chat").addEventListener("click", () => { show(newConversation()); closeSidebar(); $("input").focus(); });
  $("open-sidebar").addEventListener("click", openSidebar);
  $("close-sidebar").addEventListener("click", () => { closeSidebar(); $("open-sidebar").focus(); });
  $("backdrop").addEventListener("click", closeSidebar);
  $("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme ?? "system";
    setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
    announce($("theme").title);
  });
  $("model").addEventListener("change", () => changeSettings({ ...shown.settings, model: $("model").value }));
  $("open-settings").addEventListener("click", () => openSettings(shown.settings, (changed, keyChanged) => {
    changeSettings({ ...changed, model: shown.settings.model });
    if (keyChanged) loadModels();
  }));
  $("export").addEventListener("click", () => download("qwenserve-conversations.json", JSON.stringify(store.all(), null, 1)));
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", async ({ target }) => {
    if (target.files[0]) await importFile(target.files[0]);
    target.value = "";
  });
  $("delete-all").addEventListener("click", () => {
    const conversations = store.all();
    if (conversations.length > 0) removeConversations(conversations);
  });
  // Other tabs write the same storage.
  window.addEventListener("storage", renderList);
  window.addEventListener("beforeunload", () => {
    leaving = true;
    setTimeout(() => { leaving = false; }, 2000); // it was a download
  });
  window.addEventListener("pagehide", () => runs.forEach(({ conversation }) => save(conversation)));
}

listen();
autoGrow($("input"));
setTheme(document.documentElement.dataset.theme ?? "system");
show(store.all()[0] ?? newConversation());
loadModels();
