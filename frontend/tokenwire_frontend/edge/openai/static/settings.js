// The form of settings: what requests are made with. It is kept in the tab's session storage.

import { Refusal } from "./api.js";
import { element } from "./element.js";

const STORED = "tokenwire-settings";

const NUMBERS = ["temperature", "max_tokens", "seed"];

// Controls by the first name of the path of a request's field.
const CONTROLS = {
  model: "model",
  temperature: "temperature",
  max_tokens: "max_tokens",
  seed: "seed",
  tools: "tools",
  chat_template_kwargs: "thinking",
};

const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather in a city.",
      parameters: {
        type: "object",
        properties: { city: { type: "string" } },
        required: ["city"],
      },
    },
  },
];

const panel = document.getElementById("panel");
const form = document.getElementById("settings");
const controls = form.elements;

// Shows what was set before in this tab. `keyChanged` is called when another key has been typed.
export function start(keyChanged) {
  panel.open = matchMedia("(min-width: 60rem)").matches;
  for (const control of named()) giveFault(control);
  for (const [name, value] of Object.entries(stored())) {
    if (controls[name]) controls[name].value = value;
  }
  form.addEventListener("input", ({ target }) => {
    clearFault(target);
    store();
  });
  controls.key.addEventListener("change", keyChanged);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("example").addEventListener("click", () => {
    controls.tools.value = JSON.stringify(EXAMPLE, null, 2);
    clearFault(controls.tools);
    store();
  });
}

// Offers these models; the one that was chosen before stays.
export function offer(models) {
  const chosen = controls.model.value || stored().model;
  controls.model.replaceChildren(...models.map((name) => element("option", {}, name)));
  if (models.includes(chosen)) controls.model.value = chosen;
}

// Returns the key; throws Refusal if it can't be one.
export function key() {
  const value = controls.key.value.trim();
  if (!/^[!-~]*$/.test(value)) {
    throw wrong("key", "must have printable ASCII characters without spaces alone");
  }
  return value;
}

// Returns the members of a request, without messages, and the message that comes before them.
// Throws Refusal: a field can't be sent.
export function request() {
  for (const control of named()) clearFault(control);
  const body = {};
  if (controls.model.value) body.model = controls.model.value;
  for (const name of NUMBERS) {
    const text = controls[name].value.trim();
    if (text) body[name] = number(name, text);
  }
  if (controls.thinking.value) {
    body.chat_template_kwargs = { enable_thinking: controls.thinking.value === "true" };
  }
  const tools = controls.tools.value.trim();
  if (tools) body.tools = parsed("tools", tools);
  const system = controls.system.value.trim();
  return { body, before: system ? [{ role: "system", content: system }] : [] };
}

// Marks the control that a refusal is about. Returns a function that goes there; null: none is.
export function mark(refusal) {
  const control = controls[controlOf(refusal)];
  if (!control) return null;
  const fault = faultOf(control);
  fault.textContent = refusal.message;
  fault.hidden = false;
  control.setAttribute("aria-invalid", "true");
  return () => {
    panel.open = true;
    control.focus();
    fault.scrollIntoView({ block: "nearest" });
  };
}

function controlOf(refusal) {
  if (refusal.type === "authentication_error" || refusal.param === "key") return "key";
  return CONTROLS[/^\w*/.exec(refusal.param ?? "")[0]];
}

function named() {
  return [...controls].filter((each) => each.name);
}

function faultOf(control) {
  return document.getElementById(`${control.id}-fault`);
}

// Gives a control a place for what is wrong with it, which is read out with it.
function giveFault(control) {
  const fault = element("p", { className: "fault", id: `${control.id}-fault`, hidden: true });
  (control.closest(".numbers") ?? control).after(fault);
  const before = control.getAttribute("aria-describedby") ?? "";
  control.setAttribute("aria-describedby", `${fault.id} ${before}`.trim());
}

function clearFault(control) {
  faultOf(control).hidden = true;
  control.removeAttribute("aria-invalid");
}

function number(name, text) {
  const value = Number(text);
  if (!Number.isFinite(value)) throw wrong(name, "must be a number");
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw wrong(name, `must be at most ${Number.MAX_SAFE_INTEGER} here`);
  }
  return value;
}

function parsed(name, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw wrong(name, `is not JSON: ${error.message}`);
  }
}

function wrong(name, description) {
  return new Refusal({ message: `${name}: ${description}`, param: name });
}

function stored() {
  return JSON.parse(sessionStorage.getItem(STORED) ?? "{}");
}

function store() {
  const values = named().map((each) => [each.name, each.value]);
  sessionStorage.setItem(STORED, JSON.stringify(Object.fromEntries(values)));
}
