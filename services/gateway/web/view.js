// How one message looks. A view knows nothing of requests: what its buttons do is in `actions`.

import { copyButton, h, icon, iconButton } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

// Whether the model can go on where this answer ends.
export const canGoOn = (message) => message.content.trim() !== "" && !message.tool_calls?.length;

function prettyJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not complete yet, or the model's mistake
  }
}

export function autoGrow(area) {
  if (CSS.supports("field-sizing", "content")) return;
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  };
  area.addEventListener("input", fit);
  requestAnimationFrame(fit);
}

export const isSendKey = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing
  && event.keyCode !== 229; // an input method takes the Enter

// ---- the user's messages ------------------------------------------------------------------------

function editForm(message, actions, close) {
  const area = h("textarea", { "aria-label": "Edit the message" });
  area.value = message.content;
  const submit = (event) => {
    event.preventDefault();
    if (area.value.trim()) actions.edit(message, area.value.trim());
  };
  const form = h("form", { class: "edit", submit, keydown: (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (isSendKey(event)) {
      submit(event);
    }
  } }, area, h("footer", {}, h("span", { class: "aside" }, "What follows is asked anew."),
    h("button", { type: "button", class: "text-button", click: close }, "Cancel"),
    h("button", { type: "submit", class: "primary" }, "Send")));
  autoGrow(area);
  return { form, area };
}

export function userView(message, actions) {
  const node = h("article", { class: "message user", "aria-label": "You" });
  const show = () => {
    const edit = iconButton("edit", "Edit and send again", () => {
      const { form, area } = editForm(message, actions, () => {
        show();
        node.querySelector("[data-edit]").focus();
      });
      node.replaceChildren(form);
      area.focus();
    });
    edit.dataset.edit = "";
    node.replaceChildren(h("div", { class: "bubble" }, message.content),
      h("div", { class: "actions" }, copyButton("Copy message", () => message.content, actions.announce), edit));
  };
  show();
  return node;
}

// What a tool said, which was typed in here.
export function toolView(message) {
  return h("article", { class: "message", "aria-label": "Result of a tool" },
    h("details", { class: "tool" }, h("summary", {}, icon("check"), "Result of a tool"),
      h("pre", {}, message.content)));
}

// ---- the model's answers ------------------------------------------------------------------------

export class AnswerView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.reasoning = h("p", { class: "reasoning-text" });
    this.summary = h("summary");
    this.details = h("details", { class: "reasoning", hidden: true }, this.summary, this.reasoning);
    // Opens while the model thinks and closes when it answers, unless its reader decides otherwise.
    this.summary.addEventListener("click", () => { this.decided = true; });
    this.dots = h("div", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    this.body = h("div", { class: "md" });
    this.calls = h("div");
    this.footer = h("div");
    this.node = h("article", { class: "message answer", "aria-label": "Answer" },
      this.details, this.dots, this.body, this.calls, this.footer);
  }

  // `live`: null, or {rate} while the answer comes. `last`: nothing follows it.
  update(live, last) {
    const { message, actions } = this;
    const meta = message.meta ?? {};
    this.node.setAttribute("aria-busy", String(live !== null));
    this.updateReasoning(live, meta);
    this.dots.hidden = live === null || message.content !== "" || Boolean(message.tool_calls?.length);
    renderMarkdown(this.body, message.content, actions.announce);
    this.updateCalls();
    if (live !== null) {
      this.footer.replaceChildren(h("div", { class: "actions" }, h("span", { class: "stats", "aria-hidden": "true" },
        live.rate > 0 ? `≈ ${live.rate.toFixed(1)} tokens/s` : "")));
      return;
    }
    this.footer.replaceChildren(...this.finished(meta, last));
  }

  updateReasoning(live, meta) {
    const { reasoning, content } = this.message;
    this.details.hidden = !reasoning;
    if (!reasoning) return;
    const thinking = live !== null && content === "";
    const seconds = meta.thought ? Math.max(1, Math.round(meta.thought / 1000)) : 0;
    const label = seconds ? `Thought for ${seconds} s` : "Thoughts";
    const summary = thinking ? "Thinking …" : label;
    if (this.summary.textContent !== summary) this.summary.textContent = summary;
    if (this.reasoning.textContent !== reasoning) this.reasoning.textContent = reasoning;
    if (!this.decided) this.details.open = thinking;
  }

  updateCalls() {
    const calls = this.message.tool_calls ?? [];
    while (this.calls.childNodes.length < calls.length) {
      this.calls.append(h("details", { class: "tool", open: true },
        h("summary", {}, icon("tool"), h("span")), h("pre", {}, h("code"))));
    }
    calls.forEach((call, i) => {
      const node = this.calls.childNodes[i];
      node.querySelector("span").textContent = `Calls ${call.function.name}`;
      node.querySelector("code").textContent = prettyJson(call.function.arguments);
    });
  }

  finished(meta, last) {
    const parts = [];
    if (last && this.message.tool_calls?.length && !meta.error) parts.push(this.resultForm());
    if (meta.error) parts.push(this.problem(meta.error, last));
    else if (meta.unfinished) parts.push(this.mild("This answer was interrupted.", last));
    else if (meta.stopped) parts.push(this.mild("You stopped this answer.", last));
    else if (meta.finish === "length") parts.push(this.mild("The limit of tokens was reached.", last));
    const { message, actions } = this;
    const bar = h("div", { class: "actions" });
    if (message.content) bar.append(copyButton("Copy answer", () => message.content, actions.announce));
    if (last) bar.append(iconButton("again", "Answer again", () => actions.regenerate()));
    const stats = statsText(meta);
    if (stats) bar.append(h("span", { class: "stats" }, stats));
    parts.push(bar);
    return parts;
  }

  goOnButton() {
    const { message, actions } = this;
    return canGoOn(message)
      ? h("button", { type: "button", class: "text-button", click: () => actions.goOn() }, "Go on")
      : h("button", { type: "button", class: "text-button", click: () => actions.regenerate() }, "Try again");
  }

  mild(text, last) {
    return h("div", { class: "problem mild" }, h("span", {}, text), last ? this.goOnButton() : null);
  }

  problem(error, last) {
    const box = h("div", { class: "problem", role: "group", "aria-label": "Problem" }, h("span", {}, error.message));
    if (!last) return box;
    const button = this.goOnButton();
    box.append(button);
    const label = button.textContent;
    const count = () => {
      const left = Math.ceil(((error.retryAt ?? 0) - Date.now()) / 1000);
      button.disabled = left > 0;
      button.textContent = left > 0 ? `${label} in ${left} s` : label;
      return left > 0;
    };
    if (count()) {
      const timer = setInterval(() => {
        if (!count() || !box.isConnected) clearInterval(timer);
      }, 500);
    }
    return box;
  }

  resultForm() {
    const { message, actions } = this;
    const fields = message.tool_calls.map((call, i) => {
      const id = `result-${i}`;
      const area = h("textarea", { id, rows: "2", spellcheck: "false" });
      return { call, area, label: h("label", { for: id }, `What ${call.function.name} returns`) };
    });
    return h("form", { class: "tool-results", submit: (event) => {
      event.preventDefault();
      actions.sendResults(fields.map(({ call, area }) => ({
        role: "tool", tool_call_id: call.id, content: area.value })));
    } }, ...fields.flatMap(({ label, area }) => [label, area]),
    h("button", { type: "submit", class: "text-button" }, fields.length > 1 ? "Send the results" : "Send the result"));
  }
}

function statsText(meta) {
  const parts = [];
  const usage = meta.usage;
  if (usage) {
    parts.push(`${usage.completion_tokens} tokens`);
    if (meta.rate > 0) parts.push(`${meta.rate.toFixed(1)} tokens/s`);
    if (meta.firstToken >= 0) parts.push(`first after ${Math.round(meta.firstToken)} ms`);
    const cached = usage.prompt_tokens_details?.cached_tokens;
    parts.push(`prompt ${usage.prompt_tokens}${cached ? ` (${cached} cached)` : ""}`);
  }
  if (meta.seed !== undefined && usage) parts.push(`seed ${meta.seed}`);
  return parts.join(" · ");
}
