import assert from "node:assert/strict";
import { test } from "node:test";

import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { DeltaSchema } from "../src/proto.js";
import { type Before, GapError, Seam } from "../src/seam.js";

const BEFORE: Before = {
  text: { came: "zwölf", end: 6 },
  reasoning: { came: "let me see", end: 10 },
  arguments: new Map([[0, { came: '{"city": ', end: 9 }]]),
  isRepeated: false,
  newCall: { came: "", end: 0 },
};

/** Returns the text, reasoning and arguments that are new of each delta after a seam. */
function after(before: Before, ...deltas: MessageInitShape<typeof DeltaSchema>[]) {
  const seam = new Seam(before);
  return deltas.map((each) => {
    const delta = create(DeltaSchema, each);
    seam.trim(delta);
    return [delta.text, delta.reasoning, delta.toolCalls[0]?.arguments ?? ""];
  });
}

test("what came is cut from the front, counted in bytes, and what follows meets", () => {
  const texts = after(
    BEFORE,
    // Four bytes that came: "ölf"; then one that came whole, as the end of a sequence may bring it.
    { text: "ölf Bo", textOffset: 2n },
    { text: "ote", textOffset: 9n, reasoning: "see it", reasoningOffset: 7n },
    { text: "oote!", textOffset: 8n },
    { toolCalls: [{ index: 0, arguments: '"Oslo"}', argumentsOffset: 9n }] },
  );
  const expected = [
    [" Bo", "", ""],
    ["ote", " it", ""],
    ["!", "", ""],
    ["", "", '"Oslo"}'],
  ];
  assert.deepEqual(texts, expected);
});

test("a gap, another text and a call that begins again are faults", () => {
  const missing = { message: "text went on at byte 7 after 6 bytes" };
  assert.throws(() => after(BEFORE, { text: "x", textOffset: 7n }), missing);
  assert.throws(() => after(BEFORE, { text: "olf", textOffset: 2n }), GapError);
  assert.throws(() => after(BEFORE, { toolCalls: [{ index: 0, id: "c-0" }] }), GapError);
});

test("a text without ids comes again from its beginning, an echoed prompt included", () => {
  const echoed = { ...BEFORE, isRepeated: true };
  const texts = after(echoed, { text: "zwö" }, { text: "lf Boote" }, { text: "!", textOffset: 6n });
  assert.deepEqual(
    texts.map(([text]) => text),
    ["", " Boote", "!"],
  );
});
