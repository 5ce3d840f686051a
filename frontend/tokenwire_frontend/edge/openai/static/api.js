// The frontend's HTTP interface, as this page calls it.

// A record is written once the worker has ended the generation, which is soon after a cancel.
const RECORD_TRIES = 10;
const RECORD_PAUSE_MS = 200;

// Why a request was not answered. `param` is the path of the field at fault, or null.
export class Refusal extends Error {
  constructor({ message, param = null, code = null, type = null }) {
    super(message);
    Object.assign(this, { param, code, type });
  }
}

// Returns the names of the models that are served.
export async function models(key) {
  const told = await (await ask("v1/models", key)).json();
  return told.data.map((each) => each.id);
}

// Returns a request id that is not anybody's yet.
export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Sends a chat and yields the choices of its chunks. It ends with the response: then the frontend
// has written it down. Throws Refusal.
export async function* chat(body, key, requestId, signal) {
  const response = await ask("v1/chat/completions", key, {
    method: "POST",
    headers: { "Content-Type": "application/json", "x-request-id": requestId },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  let whole = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      whole = true;
      continue;
    }
    const told = JSON.parse(data);
    if (told.error) throw new Refusal(told.error);
    yield* told.choices;
  }
  if (!whole) throw new Refusal({ message: "The connection ended before the answer." });
}

// Returns what the frontend has written down of a request: tokenwire.frontend.v1.Record as JSON.
export async function record(requestId, key) {
  for (let tries = 1; ; tries++) {
    try {
      return await (await ask(`requests/${encodeURIComponent(requestId)}`, key)).json();
    } catch (error) {
      if (error.code !== "unknown_request" || tries === RECORD_TRIES) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, RECORD_PAUSE_MS));
  }
}

async function ask(path, key, options = {}) {
  const credential = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...credential } });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function unreachable() {
  return new Refusal({ message: "The frontend can't be reached." });
}

async function refusal(response) {
  try {
    return new Refusal((await response.json()).error);
  } catch {
    // Of something between this page and the frontend.
    return new Refusal({ message: `HTTP status ${response.status}` });
  }
}

// Yields the data of server-sent events, each of which the frontend writes as one line.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await read(reader);
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice("data: ".length);
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}
