// Conversations, kept in this browser only. A key for each, so that two tabs do not overwrite each
// other's; bounded in number and size, of which the oldest have to go first.

const PREFIX = "qwenserve.chat.";
const SETTINGS = "qwenserve.settings";
export const MAX_CONVERSATIONS = 100;
const MAX_CHARACTERS = 4_000_000; // browsers give 5 million

// For browsers that keep nothing: conversations last as long as the page.
function memory() {
  const map = new Map();
  return {
    get length() { return map.size; },
    key: (i) => [...map.keys()][i],
    getItem: (key) => map.get(key) ?? null,
    setItem: (key, value) => map.set(key, value),
    removeItem: (key) => map.delete(key),
  };
}

const storage = (() => {
  try {
    return window.localStorage ?? memory();
  } catch {
    return memory();
  }
})();

function ids() {
  return Array.from({ length: storage.length }, (_, i) => storage.key(i))
    .filter((key) => key.startsWith(PREFIX))
    .map((key) => key.slice(PREFIX.length));
}

// ---- reading, from files of strangers too: nothing is taken that has another type ---------------

const text = (value) => (typeof value === "string" ? value : "");
const object = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});

function pick(from, names, type) {
  return Object.fromEntries(names.filter((name) => typeof from[name] === type).map((name) => [name, from[name]]));
}

function readMeta(meta) {
  const read = {
    ...pick(meta, ["rate", "firstToken", "thought", "seed"], "number"),
    ...pick(meta, ["model", "finish"], "string"),
    ...pick(meta, ["stopped", "unfinished"], "boolean"),
  };
  if (typeof meta.usage?.completion_tokens === "number" && typeof meta.usage.prompt_tokens === "number") {
    read.usage = pick(meta.usage, ["prompt_tokens", "completion_tokens"], "number");
    read.usage.prompt_tokens_details = pick(object(meta.usage.prompt_tokens_details), ["cached_tokens"], "number");
  }
  if (typeof meta.error?.message === "string") {
    read.error = { message: meta.error.message, ...pick(meta.error, ["status", "retryAt"], "number") };
  }
  return read;
}

function readSettings(settings) {
  const read = {
    ...pick(settings, ["temperature", "top_p", "max_tokens", "seed"], "number"),
    ...pick(settings, ["system", "model", "thinking"], "string"),
  };
  if (Array.isArray(settings.tools)) read.tools = settings.tools;
  return read;
}

function readMessage(from) {
  const message = object(from);
  const read = {
    role: ["user", "assistant", "tool"].includes(message.role) ? message.role : "user",
    content: text(message.content),
  };
  if (message.reasoning) read.reasoning = text(message.reasoning);
  if (message.tool_call_id) read.tool_call_id = text(message.tool_call_id);
  if (Array.isArray(message.tool_calls)) {
    read.tool_calls = message.tool_calls.map((call) => ({
      id: text(call?.id), type: "function",
      function: { name: text(call?.function?.name), arguments: text(call?.function?.arguments) },
    }));
  }
  if (message.meta) read.meta = readMeta(object(message.meta));
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
    settings: readSettings(object(json.settings)),
    messages: json.messages.map(readMessage),
  };
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

export function load(id) {
  try {
    return readConversation({ ...JSON.parse(storage.getItem(PREFIX + id)), id });
  } catch {
    return null;
  }
}

// Newest first.
export function all() {
  return ids().map(load).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

export function remove(id) {
  storage.removeItem(PREFIX + id);
}

// Returns how many older conversations had to go; throws when there is no room even so.
export function save(conversation) {
  const json = JSON.stringify(conversation);
  const others = all().filter((other) => other.id !== conversation.id);
  let size = json.length;
  for (const other of others) size += storage.getItem(PREFIX + other.id).length;
  let removed = 0;
  for (;;) {
    const full = others.length >= MAX_CONVERSATIONS || (size > MAX_CHARACTERS && others.length > 0);
    if (!full) {
      try {
        storage.setItem(PREFIX + conversation.id, json);
        return removed;
      } catch (error) {
        if (others.length === 0) throw error;
      }
    }
    const oldest = others.pop();
    size -= storage.getItem(PREFIX + oldest.id).length;
    remove(oldest.id);
    removed += 1;
  }
}

// What a new conversation begins with.
export function loadSettings() {
  try {
    return readSettings(object(JSON.parse(storage.getItem(SETTINGS))));
  } catch {
    return {};
  }
}

export function saveSettings(settings) {
  try {
    storage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // Full: the next page begins with the defaults.
  }
}
