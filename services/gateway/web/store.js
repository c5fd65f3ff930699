// Conversations, kept in this browser only. A key for each, so that two tabs do not overwrite each
// other's; bounded in number and size, of which the oldest have to go first.

const PREFIX = "qwenserve.chat.";
const SETTINGS = "qwenserve.settings";
export const MAX_CONVERSATIONS = 100;
const MAX_CHARACTERS = 4_000_000; // browsers give 5 million

function ids() {
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(PREFIX))
    .map((key) => key.slice(PREFIX.length));
}

const text = (value) => (typeof value === "string" ? value : "");

function readMessage(message) {
  const read = {
    role: ["user", "assistant", "tool"].includes(message?.role) ? message.role : "user",
    content: text(message?.content),
  };
  if (message.reasoning) read.reasoning = text(message.reasoning);
  if (message.tool_call_id) read.tool_call_id = text(message.tool_call_id);
  if (Array.isArray(message.tool_calls)) {
    read.tool_calls = message.tool_calls.map((call) => ({
      id: text(call?.id), type: "function",
      function: { name: text(call?.function?.name), arguments: text(call?.function?.arguments) },
    }));
  }
  const meta = message.meta;
  if (meta && typeof meta === "object") read.meta = { ...meta };
  return read;
}

// Anything that claims to be a conversation, as one; null if it is none.
export function readConversation(json) {
  if (!json || typeof json !== "object" || !Array.isArray(json.messages)) return null;
  return {
    id: /^[\w-]{1,64}$/.test(json.id) ? json.id : newId(),
    title: text(json.title).slice(0, 200),
    created: Number(json.created) || Date.now(),
    updated: Number(json.updated) || Date.now(),
    settings: typeof json.settings === "object" && json.settings ? { ...json.settings } : {},
    messages: json.messages.map(readMessage),
  };
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

export function load(id) {
  try {
    return readConversation({ ...JSON.parse(localStorage.getItem(PREFIX + id)), id });
  } catch {
    return null;
  }
}

// Newest first.
export function all() {
  return ids().map(load).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

export function remove(id) {
  localStorage.removeItem(PREFIX + id);
}

// Returns how many older conversations had to go; throws when there is no room even so.
export function save(conversation) {
  const json = JSON.stringify(conversation);
  const others = all().filter((other) => other.id !== conversation.id);
  let size = json.length;
  for (const other of others) size += localStorage.getItem(PREFIX + other.id).length;
  let removed = 0;
  for (;;) {
    const full = others.length >= MAX_CONVERSATIONS || (size > MAX_CHARACTERS && others.length > 0);
    if (!full) {
      try {
        localStorage.setItem(PREFIX + conversation.id, json);
        return removed;
      } catch (error) {
        if (others.length === 0) throw error;
      }
    }
    const oldest = others.pop();
    size -= localStorage.getItem(PREFIX + oldest.id).length;
    remove(oldest.id);
    removed += 1;
  }
}

// What a new conversation begins with.
export function loadSettings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS)) ?? {};
  } catch {
    return {};
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // Full: the next page begins with the defaults.
  }
}
