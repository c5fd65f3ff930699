// Builds elements. Text is only ever set as text: nothing on this page parses HTML, and the page's
// policy (require-trusted-types-for) makes the browser refuse it.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// One of the symbols in index.html.
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function iconButton(name, label, click) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, click },
    icon(name));
}

async function writeClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that came by plain HTTP from another machine have no clipboard object.
  const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true", tabindex: "-1" });
  area.value = text;
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  if (!done) throw new Error("the browser refused");
}

// A button that copies what `text()` returns, and says so. `announce` tells screen readers.
export function copyButton(label, text, announce) {
  const button = iconButton("copy", label, async () => {
    try {
      await writeClipboard(text());
      button.replaceChildren(icon("check"));
      announce("Copied");
    } catch (error) {
      announce(`Not copied: ${error.message}`);
    }
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
