// The gateway's HTTP API as this page uses it. Addresses are relative, so the page may live behind a
// proxy under any path.

export class ApiError extends Error {
  // `lost`: the connection failed, and the same request may be made again.
  constructor(message, { status = 0, code = null, param = null, retryAfter = 0, lost = false } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter, lost });
  }
}

const LOST = "The connection to the server was lost.";

async function send(path, key, init) {
  const headers = { ...init.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", { lost: true });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  throw new ApiError(error.message ?? `The server answered with status ${response.status}.`, {
    status: response.status,
    code: error.code,
    param: error.param,
    retryAfter: Math.min(Number(response.headers.get("Retry-After")) || 0, 3600),
  });
}

// [{id, max_model_len}]
export async function listModels(key) {
  const response = await send("v1/models", key, {});
  return (await response.json()).data;
}

// The data of each server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html).
export async function* serverSentEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    // A carriage return at the end may be half of a line's end.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0) yield data.join("\n");
        data = [];
      } else if (line.startsWith("data:")) {
        data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  }
}

// The status has gone out before: only the type tells.
function streamError({ message, type, code }) {
  return new ApiError(message, { status: type === "rate_limit_error" ? 429 : 500, code });
}

// The chunks of a streamed chat completion. Throws ApiError, `lost` when the stream ends early, or
// AbortError after signal.
export async function* streamChat(body, key, signal) {
  const response = await send("v1/chat/completions", key, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  try {
    for await (const data of serverSentEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw streamError(chunk.error);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
  }
  if (signal.aborted) throw new DOMException("stopped", "AbortError");
  throw new ApiError(LOST, { lost: true });
}
