// The conversation: what is sent, what comes, and what is kept of it for the next request.

import { chat, models, newRequestId, record, Refusal } from "./api.js";
import * as settings from "./settings.js";
import { Answer, clear, question } from "./turns.js";

const text = document.getElementById("text");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const status = document.getElementById("status");

// Messages so far, and whether the model waits for results of its calls.
let conversation = { messages: [], waits: false };

// Stops the request that runs; null: none does.
let running = null;

function setRunning(controller) {
  running = controller;
  send.hidden = controller !== null;
  stop.hidden = controller === null;
}

// Sends the conversation with these messages added, and shows the answer. Returns whether both are
// a part of the conversation now.
async function exchange(added) {
  const own = conversation;
  const answer = new Answer();
  const controller = new AbortController();
  setRunning(controller);
  status.textContent = "Answering …";
  let requestId = null;
  let failed = false;
  try {
    const { body, before } = settings.request();
    const key = settings.key();
    const messages = [...before, ...own.messages, ...added];
    requestId = newRequestId();
    const choices = chat({ ...body, messages }, key, requestId, controller.signal);
    for await (const choice of choices) answer.take(choice);
    answer.end(endNote(answer.finish));
    status.textContent = "Answered.";
  } catch (error) {
    failed = !ended(answer, error, controller.signal);
  } finally {
    if (running === controller) setRunning(null);
  }
  if (requestId) void showRecord(answer, requestId, failed);
  if (failed || (controller.signal.aborted && answer.isEmpty)) return false;
  own.messages.push(...added, answer.message);
  if (answer.calls.length) askResults(answer, own);
  return true;
}

// Shows how a request has ended early. Returns whether what has come of the answer is kept.
function ended(answer, error, signal) {
  if (signal.aborted) {
    answer.end("Stopped.");
    status.textContent = "Stopped.";
    return true;
  }
  if (!(error instanceof Refusal)) throw error;
  answer.fail(error, settings.mark(error));
  status.textContent = "Not answered; the conversation is as it was before.";
  return false;
}

function endNote(finish) {
  if (finish === "length") return "Cut: max tokens are reached, or the context is full.";
  return finish === "stop" || finish === "tool_calls" ? "" : `Ended: ${finish}.`;
}

function askResults(answer, own) {
  own.waits = true;
  status.textContent = "The model waits for the results of its calls.";
  answer.askResults(async (results) => {
    if (running) return false;
    own.waits = false;
    const taken = await exchange(results);
    own.waits ||= !taken;
    return taken;
  });
}

// Shows the record, or why it can't be shown; where the request has failed, that is told already.
async function showRecord(answer, requestId, failed) {
  try {
    answer.record(await record(requestId, settings.key()));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (!failed) answer.unrecorded(error.message);
  }
}

async function submit() {
  const said = text.value;
  if (running || !said.trim()) return;
  if (conversation.waits) {
    status.textContent = "First send the results of the model's calls, or start a new chat.";
    return;
  }
  text.value = "";
  question(said);
  const own = conversation;
  const taken = await exchange([{ role: "user", content: said }]);
  if (!taken && own === conversation && !text.value) text.value = said;
}

function begin() {
  running?.abort();
  conversation = { messages: [], waits: false };
  clear();
  status.textContent = "";
  text.focus();
}

async function listModels() {
  try {
    settings.offer(await models(settings.key()));
    status.textContent = "";
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    settings.mark(error)?.();
    status.textContent = error.message;
  }
}

document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  void submit();
});
document.getElementById("new").addEventListener("click", begin);
stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
text.addEventListener("keydown", (event) => {
  // On a phone the key makes a new line; an input method's Enter ends a word.
  const isSend = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (!isSend || matchMedia("(pointer: coarse)").matches) return;
  event.preventDefault();
  void submit();
});

settings.start(listModels);
void listModels();
