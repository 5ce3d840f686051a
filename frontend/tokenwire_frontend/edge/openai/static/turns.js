// What the conversation shows: questions, answers as they come, and what became of them.

import { element, growing } from "./element.js";
import { waterfall } from "./waterfall.js";

const turns = document.getElementById("turns");

// Pixels from the end within which a reader is at the end, and stays there as the answer grows.
const END_PX = 48;

let isFollowing = false;

// Scrolls to the end before the next frame, unless the reader has scrolled away from it. Asking for
// positions lays the page out, so it is done once a frame and not for each token.
function follow() {
  if (isFollowing) return;
  isFollowing = true;
  const isAtEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < END_PX;
  requestAnimationFrame(() => {
    if (isAtEnd) turns.scrollTop = turns.scrollHeight;
    isFollowing = false;
  });
}

function turn(kind, ...children) {
  const made = element("article", { className: kind }, ...children);
  made.setAttribute("aria-label", kind);
  return made;
}

// Takes everything away.
export function clear() {
  turns.replaceChildren();
}

// Shows what the user has said.
export function question(text) {
  turns.append(turn("question", element("p", { className: "text" }, text)));
  turns.scrollTop = turns.scrollHeight;
}

// One answer, from its first token to its waterfall.
export class Answer {
  constructor() {
    this.finish = null;
    this._calls = [];
    this._text = growing("p", "text");
    this._reasoning = growing("p", "text");
    this._thoughts = element(
      "details",
      { className: "reasoning", open: true, hidden: true },
      element("summary", {}, "Reasoning"),
      this._reasoning.element,
    );
    this._said = element("div", { className: "said" }, this._thoughts, this._text.element);
    this._beside = element("div", { className: "beside" });
    // Read out when it is asked for alone: the answer is what is told.
    this._beside.setAttribute("aria-live", "off");
    follow();
    turns.append(turn("answer", this._said, this._beside));
    turns.setAttribute("aria-busy", "true");
  }

  // Takes a choice of a chunk.
  take({ delta, finish_reason: finish }) {
    follow();
    if (delta.reasoning_content) {
      this._thoughts.hidden = false;
      this._reasoning.add(delta.reasoning_content);
    }
    if (delta.content) this._text.add(delta.content);
    for (const call of delta.tool_calls ?? []) this._call(call);
    if (finish) this.finish = finish;
  }

  _call({ index, id, function: { name, arguments: more } }) {
    if (!this._calls[index]) {
      const shown = growing("pre", "arguments");
      const box = element("div", { className: "call" }, element("code", {}, name), shown.element);
      this._said.append(box);
      this._calls[index] = { id, name, shown, box };
    }
    this._calls[index].shown.add(more);
  }

  // The calls of tools, if it ended with some.
  get calls() {
    return this.finish === "tool_calls" ? this._calls : [];
  }

  get isEmpty() {
    return !this._text.text() && !this.calls.length;
  }

  // The message that the conversation goes on with.
  get message() {
    const message = { role: "assistant", content: this._text.text() };
    if (this._reasoning.text()) message.reasoning_content = this._reasoning.text();
    if (this.calls.length) {
      message.tool_calls = this.calls.map(({ id, name, shown }) => ({
        id,
        type: "function",
        function: { name, arguments: shown.text() },
      }));
    }
    return message;
  }

  // Tells that nothing more comes. `note`: why, if it is not the model's own end.
  end(note) {
    follow();
    turns.setAttribute("aria-busy", "false");
    if (note) this._said.append(element("p", { className: "note" }, note));
  }

  // Shows why there is no answer, or no more of it. `go` goes to the field at fault, if there is one.
  fail(refusal, go) {
    this.end();
    const box = element("div", { className: "refusal" }, element("p", {}, refusal.message));
    box.setAttribute("role", "alert");
    const facts = { field: refusal.param, code: refusal.code };
    for (const [name, value] of Object.entries(facts)) {
      if (value) box.append(element("p", { className: "note" }, `${name} `, element("code", {}, value)));
    }
    if (go) box.append(element("button", { type: "button", onclick: go }, "Go to the field"));
    this._said.append(box);
  }

  // Shows what the frontend has written down of the request.
  record(record) {
    follow();
    this._beside.replaceChildren(waterfall(record));
  }

  // Shows why it can't be shown.
  unrecorded(reason) {
    this._beside.replaceChildren(element("p", { className: "note" }, reason));
  }

  // Asks for the calls' results. `send` gets them as messages, and returns whether they were taken.
  askResults(send) {
    follow();
    const fields = this._calls.map(({ name, box }, place) => {
      const field = element("textarea", { rows: 2, placeholder: "text or JSON" });
      box.append(element("label", {}, `Result of call ${place + 1}, ${name}`, field));
      return field;
    });
    const button = element("button", { type: "button" }, "Send results");
    this._said.append(button);
    button.addEventListener("click", async () => {
      const set = (sent) => {
        button.hidden = sent;
        for (const field of fields) field.readOnly = sent;
      };
      set(true);
      const results = fields.map((field, place) => ({
        role: "tool",
        tool_call_id: this._calls[place].id,
        content: field.value,
      }));
      if (!(await send(results))) set(false);
    });
    fields[0].focus({ preventScroll: true });
  }
}
