// Markdown to DOM nodes: headings, lists, tables, quotes, fenced code, emphasis, links. Text becomes
// text nodes whatever it says; the only attribute that text reaches is the href of an http(s) link.
// Time is linear in the text, or close to it, whatever the text is: models may repeat themselves.

import { copyButton, h } from "./dom.js";

const MAX_DEPTH = 12; // of quotes, lists and emphasis; deeper ones stay as they are written
const MAX_LINK = 1000;

// ---- inline -------------------------------------------------------------------------------------

export function safeUrl(text) {
  if (!/^https?:\/\//i.test(text)) return null;
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

function link(href, children) {
  const node = h("a", { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" });
  node.append(...children);
  return node;
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

const isSpace = (c) => c === undefined || /\s/.test(c);
const isWord = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);

class Inline {
  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
    this.nodes = [];
    this.plain = "";
    this.dead = new Set(); // marks that nothing further on closes: looked for once only
    this.ticks = null;
    this.nextLink = 0; // the first "](" that is not before this place
  }

  parse() {
    const { text } = this;
    for (let at = 0; at < text.length;) {
      const next = this.step(at);
      if (next > at) {
        at = next;
      } else {
        this.plain += text[at];
        at += 1;
      }
    }
    this.flush();
    return this.nodes;
  }

  // Returns where to go on; `at` itself: this character means nothing.
  step(at) {
    const { text } = this;
    const c = text[at];
    if (c === "\n") return this.add(h("br"), at + 1);
    if (c === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      this.plain += text[at + 1];
      return at + 2;
    }
    if (c === "`") return this.code(at);
    if (c === "[" || (c === "!" && text[at + 1] === "[")) return this.link(at);
    if (c === "*" || c === "_" || c === "~") return this.emphasis(at);
    if (c === "h" && !isWord(text[at - 1])) return this.bareLink(at);
    if (c === "<") {
      const br = /^<br ?\/?>/i.exec(text.slice(at, at + 6));
      if (br) return this.add(h("br"), at + br[0].length);
    }
    return at;
  }

  flush() {
    if (this.plain) this.nodes.push(document.createTextNode(this.plain));
    this.plain = "";
  }

  add(node, next) {
    this.flush();
    this.nodes.push(node);
    return next;
  }

  inner(text) {
    return this.depth >= MAX_DEPTH ? [document.createTextNode(text)] : new Inline(text, this.depth + 1).parse();
  }

  // The next run of exactly `length` backticks after `from`, or -1.
  closingTicks(from, length) {
    if (this.ticks === null) {
      this.ticks = new Map();
      for (const run of this.text.matchAll(/`+/g)) {
        if (!this.ticks.has(run[0].length)) this.ticks.set(run[0].length, []);
        this.ticks.get(run[0].length).push(run.index);
      }
    }
    const places = this.ticks.get(length) ?? [];
    let low = 0;
    for (let high = places.length; low < high;) {
      const middle = (low + high) >> 1;
      if (places[middle] < from) low = middle + 1;
      else high = middle;
    }
    return low < places.length ? places[low] : -1;
  }

  code(at) {
    const length = runLength(this.text, at);
    const end = this.closingTicks(at + length, length);
    if (end < 0) {
      this.plain += "`".repeat(length);
      return at + length;
    }
    let code = this.text.slice(at + length, end).replaceAll("\n", " ");
    if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
    return this.add(h("code", {}, code), end + length);
  }

  link(at) {
    const match = this.linkParts(this.text[at] === "!" ? at + 1 : at);
    if (!match) return at;
    const href = safeUrl(match.url);
    if (href === null) return at; // shown as it is written
    const label = match.label || match.url;
    return this.add(link(href, this.inner(label)), match.end);
  }

  linkParts(open) {
    const { text } = this;
    if (this.nextLink >= 0 && this.nextLink <= open) this.nextLink = text.indexOf("](", open);
    if (this.nextLink < 0) return null;
    const limit = Math.min(text.length, open + MAX_LINK);
    let nested = 0;
    let at = open;
    for (; at < limit; at += 1) {
      if (text[at] === "\\") at += 1;
      else if (text[at] === "[") nested += 1;
      else if (text[at] === "]") {
        nested -= 1;
        if (nested === 0) break;
      }
    }
    if (at >= limit || text[at + 1] !== "(") return null;
    const begin = at + 2;
    let parentheses = 1;
    for (let end = begin; end < Math.min(text.length, begin + MAX_LINK); end += 1) {
      if (text[end] === "\n") return null;
      if (text[end] === "(") parentheses += 1;
      if (text[end] === ")") parentheses -= 1;
      if (parentheses > 0) continue;
      const target = text.slice(begin, end).trim().replace(/\s+"[^"]*"$/, "").replace(/^<|>$/g, "");
      return { label: text.slice(open + 1, at), url: target, end: end + 1 };
    }
    return null;
  }

  bareLink(at) {
    if (!this.text.startsWith("http", at)) return at;
    const found = /^https?:\/\/[^\s<>"'`*|]+/i.exec(this.text.slice(at, at + MAX_LINK));
    if (!found) return at;
    let url = found[0].replace(/[.,;:!?]+$/, "");
    while (url.endsWith(")") && url.split("(").length < url.split(")").length) url = url.slice(0, -1);
    const href = safeUrl(url);
    return href === null ? at : this.add(link(href, [url]), at + url.length);
  }

  emphasis(at) {
    const { text } = this;
    const mark = text[at];
    const run = runLength(text, at);
    const length = Math.min(run, mark === "~" ? 2 : 3);
    const opens = !isSpace(text[at + run]) && !(mark === "_" && isWord(text[at - 1]))
      && run <= 3 && !(mark === "~" && run !== 2);
    const end = opens && this.depth < MAX_DEPTH ? this.closing(at + length, mark, length) : -1;
    if (end < 0) {
      this.plain += mark.repeat(run);
      return at + run;
    }
    const inner = this.inner(text.slice(at + length, end));
    let node;
    if (mark === "~") node = h("del", {}, ...inner);
    else if (length === 1) node = h("em", {}, ...inner);
    else if (length === 2) node = h("strong", {}, ...inner);
    else node = h("strong", {}, h("em", {}, ...inner));
    return this.add(node, end + length);
  }

  closing(from, mark, length) {
    const { text } = this;
    if (this.dead.has(mark + length)) return -1;
    for (let at = from; at < text.length;) {
      if (text[at] === "\\") {
        at += 2;
      } else if (text[at] === "`") {
        const ticks = runLength(text, at);
        const end = this.closingTicks(at + ticks, ticks);
        at = (end < 0 ? at : end) + ticks;
      } else if (text[at] === mark) {
        const run = runLength(text, at);
        const fits = length === 1 ? run !== 2 : run >= length;
        const closes = fits && !isSpace(text[at - 1]) && !(mark === "_" && isWord(text[at + run]));
        // Of three, the inner emphasis takes its part first.
        if (closes) return at + run - length;
        at += run;
      } else {
        at += 1;
      }
    }
    this.dead.add(mark + length);
    return -1;
  }
}

const inline = (text, depth) => new Inline(text, depth).parse();

// ---- blocks -------------------------------------------------------------------------------------

const FENCE = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*))?$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +(.*)|)$/;

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;
const isDelimiter = (line) => line !== undefined && /^[-:| ]+$/.test(line)
  && cells(line).every((cell) => /^:?-+:?$/.test(cell));
const isTable = (lines, i) => lines[i].includes("|") && isDelimiter(lines[i + 1])
  && cells(lines[i]).length === cells(lines[i + 1]).length;
const beginsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line)
  || QUOTE.test(line) || ITEM.test(line);

function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  const parts = [""];
  for (let i = 0; i < row.length; i += 1) {
    if (row[i] === "\\" && row[i + 1] === "|") {
      parts[parts.length - 1] += "|";
      i += 1;
    } else if (row[i] === "|") {
      parts.push("");
    } else {
      parts[parts.length - 1] += row[i];
    }
  }
  return parts.map((part) => part.trim());
}

class Blocks {
  constructor(lines, depth, tools) {
    this.lines = lines;
    this.depth = depth;
    this.tools = tools;
  }

  // [{source, make()}]: the lines of a block, and what makes its node of them.
  split() {
    const blocks = [];
    for (let i = 0; i < this.lines.length;) {
      if (isBlank(this.lines[i])) {
        i += 1;
        continue;
      }
      const [end, make] = this.block(i);
      blocks.push({ source: this.lines.slice(i, end).join("\n"), make });
      i = end;
    }
    return blocks;
  }

  nodes(lines) {
    if (this.depth >= MAX_DEPTH) return [h("p", {}, lines.join("\n"))];
    return new Blocks(lines, this.depth + 1, this.tools).split().map((block) => block.make());
  }

  block(i) {
    const line = this.lines[i];
    let match = FENCE.exec(line);
    if (match) return this.fence(i, match);
    match = HEADING.exec(line);
    if (match) return [i + 1, () => this.heading(match)];
    if (RULE.test(line)) return [i + 1, () => h("hr")];
    if (QUOTE.test(line)) return this.quote(i);
    if (ITEM.test(line)) return this.list(i);
    if (isTable(this.lines, i)) return this.table(i);
    let end = i + 1;
    while (end < this.lines.length && !isBlank(this.lines[end]) && !beginsBlock(this.lines[end])
           && !isTable(this.lines, end)) end += 1;
    const text = this.lines.slice(i, end).map((part) => part.trim()).join("\n");
    return [end, () => h("p", {}, ...inline(text, this.depth))];
  }

  heading([, marks, text]) {
    // The page has the first two levels.
    const level = Math.min(marks.length + 2, 6);
    return h(`h${level}`, { class: `md-h${marks.length}` },
      ...inline((text ?? "").trimEnd().replace(/(^| )#+$/, ""), this.depth));
  }

  fence(i, [, indent, marks, info]) {
    let end = i + 1;
    const closes = (line) => {
      const text = line.trim();
      return text.length >= marks.length && text === marks[0].repeat(text.length) && indentOf(line) < 4;
    };
    while (end < this.lines.length && !closes(this.lines[end])) end += 1;
    const code = this.lines.slice(i + 1, end)
      .map((line) => line.slice(Math.min(indentOf(line), indent.length))).join("\n");
    return [Math.min(end + 1, this.lines.length), () => this.tools.code(code, info.trim().split(/\s+/)[0])];
  }

  quote(i) {
    let end = i;
    while (end < this.lines.length && QUOTE.test(this.lines[end])) end += 1;
    const lines = this.lines.slice(i, end).map((line) => line.replace(QUOTE, ""));
    return [end, () => h("blockquote", {}, ...this.nodes(lines))];
  }

  list(i) {
    const first = ITEM.exec(this.lines[i]);
    const base = first[1].length;
    const ordered = first[2].length > 1;
    const items = [];
    let content = 0;
    let loose = false;
    let end = i;
    for (; end < this.lines.length; end += 1) {
      const line = this.lines[end];
      if (isBlank(line)) {
        let next = end + 1;
        while (next < this.lines.length && isBlank(this.lines[next])) next += 1;
        if (next >= this.lines.length) break;
        const marked = ITEM.exec(this.lines[next]);
        const same = marked && indentOf(this.lines[next]) < content && (marked[2].length > 1) === ordered;
        if (!same && indentOf(this.lines[next]) < content) break;
        loose = true;
        items[items.length - 1].push("");
        end = next - 1;
        continue;
      }
      const match = RULE.test(line) ? null : ITEM.exec(line);
      if (match && (items.length === 0 || match[1].length < content)) {
        if ((match[2].length > 1) !== ordered || match[1].length < base) break;
        content = match[1].length + match[2].length + 1;
        items.push([match[3] ?? ""]);
      } else if (indentOf(line) >= content) {
        items[items.length - 1].push(line.slice(content));
      } else if (isBlank(this.lines[end - 1]) || beginsBlock(line)) {
        break;
      } else {
        items[items.length - 1].push(line.trimStart());
      }
    }
    return [end, () => this.makeList(items, ordered, ordered ? parseInt(first[2], 10) : 1, loose)];
  }

  makeList(items, ordered, start, loose) {
    const list = h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? String(start) : null });
    for (const lines of items) {
      const item = h("li");
      const task = /^\[([ xX])\] (.*)$/.exec(lines[0]);
      if (task) {
        const done = task[1] !== " ";
        item.append(h("span", { class: "task", role: "img", "aria-label": done ? "done" : "not done" },
          done ? "☑" : "☐"), " ");
        lines[0] = task[2];
        item.className = "task-item";
      }
      for (const node of this.nodes(lines)) {
        if (!loose && node.tagName === "P") item.append(...node.childNodes);
        else item.append(node);
      }
      list.append(item);
    }
    return list;
  }

  table(i) {
    let end = i + 2;
    while (end < this.lines.length && this.lines[end].includes("|") && !isBlank(this.lines[end])) end += 1;
    const head = cells(this.lines[i]);
    const align = cells(this.lines[i + 1]).map((cell) => {
      if (/^:-*:$/.test(cell)) return "center";
      return cell.endsWith(":") ? "right" : null;
    });
    const row = (texts, tag) => h("tr", {}, ...head.map((_, column) => h(tag, {
      class: align[column] && `align-${align[column]}`, scope: tag === "th" ? "col" : null,
    }, ...inline(texts[column] ?? "", this.depth))));
    const rows = this.lines.slice(i + 2, end).map(cells);
    return [end, () => h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
      h("table", {}, h("thead", {}, row(head, "th")),
        h("tbody", {}, ...rows.map((texts) => row(texts, "td")))))];
  }
}

function codeBlock(announce) {
  return (code, language) => h("div", { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, language || "text"),
      copyButton("Copy code", () => code, announce)),
    h("pre", { tabindex: "0", role: "region", "aria-label": language ? `Code, ${language}` : "Code" },
      h("code", {}, code)));
}

// Tabs that indent become spaces, but those of code stay.
function splitLines(text) {
  let fence = null;
  return text.replaceAll("\r\n", "\n").split("\n").map((line) => {
    const marks = /^\s*(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence === null) {
      fence = marks ?? null;
      return line.replace(/^\t+/, (tabs) => "    ".repeat(tabs.length));
    }
    if (marks?.startsWith(fence)) fence = null;
    return line;
  });
}

// Shows `text` in `container`; called again with more of it, it leaves alone the blocks that are the
// same. `announce(text)` tells screen readers that something was copied.
export function renderMarkdown(container, text, announce) {
  const blocks = new Blocks(splitLines(text), 0, { code: codeBlock(announce) }).split();
  const shown = container.mdBlocks ?? [];
  let same = 0;
  while (same < blocks.length && same < shown.length && blocks[same].source === shown[same]) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of blocks.slice(same)) container.append(block.make());
  container.mdBlocks = blocks.map((block) => block.source);
}
