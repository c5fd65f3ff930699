// The dialogs: settings of a conversation, and the API key.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const KEY = "qwenserve.key";

export function apiKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

// What of `settings` goes into a request.
export function requestOptions(settings) {
  const options = {};
  for (const name of NUMBERS) if (Number.isFinite(settings[name])) options[name] = settings[name];
  if (settings.thinking === "on" || settings.thinking === "off") {
    options.enable_thinking = settings.thinking === "on";
  }
  if (Array.isArray(settings.tools) && settings.tools.length > 0) options.tools = settings.tools;
  return options;
}

// Null for an empty text; throws for what is no list.
function readTools(text) {
  if (!text.trim()) return null;
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new Error("a list is needed: [{…}]");
  return tools;
}

function readForm() {
  const settings = {};
  for (const name of NUMBERS) if ($(name).value !== "") settings[name] = Number($(name).value);
  if ($("thinking").value) settings.thinking = $("thinking").value;
  if ($("system").value.trim()) settings.system = $("system").value.trim();
  const tools = readTools($("tools").value);
  if (tools) settings.tools = tools;
  return settings;
}

export function openSettings(settings, apply) {
  for (const name of NUMBERS) $(name).value = settings[name] ?? "";
  $("thinking").value = settings.thinking ?? "";
  $("system").value = settings.system ?? "";
  $("tools").value = settings.tools ? JSON.stringify(settings.tools, null, 1) : "";
  $("tools-error").textContent = "";
  $("key").value = apiKey();
  $("close-settings").onclick = () => $("settings").close();
  $("settings-form").onsubmit = (event) => {
    let changed;
    try {
      changed = readForm();
    } catch (error) {
      event.preventDefault();
      $("tools-error").textContent = `Tools: ${error.message}`;
      $("tools").focus();
      return;
    }
    const keyChanged = $("key").value.trim() !== apiKey();
    setApiKey($("key").value.trim());
    apply(changed, keyChanged);
  };
  $("settings").showModal();
  $("system").focus();
}

// Resolves to whether there is a new key now.
export function askForKey(why) {
  const dialog = $("key-dialog");
  if (dialog.open) return Promise.resolve(false);
  $("key-why").textContent = why;
  $("asked-key").value = "";
  return new Promise((resolve) => {
    let given = false;
    $("key-cancel").onclick = () => dialog.close();
    $("key-form").onsubmit = () => {
      setApiKey($("asked-key").value.trim());
      given = true;
    };
    dialog.onclose = () => resolve(given);
    dialog.showModal();
  });
}
