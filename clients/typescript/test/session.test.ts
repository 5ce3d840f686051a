import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { create } from "@bufbuild/protobuf";
import { status as codes } from "@grpc/grpc-js";
import { Client, type Session, type SessionGeneration } from "@tokenwire/client";

import type { Status } from "../src/gen/google/rpc/status_pb.js";
import {
  FinishReason,
  type Open,
  type SessionResponse,
  SessionResponseSchema,
} from "../src/proto.js";
import {
  accepted,
  Commands,
  COMPLETED,
  delta,
  END,
  gate,
  ScriptedFrontend,
  sendIn,
  type SessionCall,
  status,
  turn,
} from "./scripted_frontend.js";

const BEGUN = [accepted(), delta("One ", [1], 0)];
const REST = [accepted(), delta("two.", [2], 1, { textOffset: 4n, ...END }), COMPLETED];
const WHOLE = [accepted(), delta("Hi", [1], 0, END), COMPLETED];

type Script = (call: SessionCall, commands: Commands) => Promise<void>;

/** Returns a session of frontends with these scripts, in this order. */
async function sessionOf(test: TestContext, ...scripts: Script[]) {
  const frontends = await Promise.all(
    scripts.map((script) =>
      ScriptedFrontend.start(test, {
        session: (call) => {
          call.on("end", () => call.end());
          void script(call, new Commands(call));
        },
      }),
    ),
  );
  const targets = frontends.map((each) => each.target);
  const client = new Client(targets, { targetOrder: "listed", retry: { firstDelayMs: 5 } });
  const session = client.session();
  test.after(async () => {
    await session.close();
    client.close();
  });
  return { session, frontends };
}

async function textOf(generation: SessionGeneration): Promise<string> {
  let text = "";
  for await (const each of generation) text += each.text;
  return text;
}

function failure(id: number, value: Status): SessionResponse {
  return create(SessionResponseSchema, { events: [{ id, event: { case: "error", value } }] });
}

type Three = [SessionGeneration, SessionGeneration, SessionGeneration];

function openThree(session: Session): Three {
  return ["a", "b", "c"].map((prompt) => session.open({ prompt })) as Three;
}

test("generations share a stream, and a cancel or a loop that is left ends one alone", async (test) => {
  const cancels: unknown[] = [];
  const { session } = await sessionOf(test, async (call, commands) => {
    for (const _ of [1, 2, 3]) sendIn(call, (await commands.opening()).id, ...BEGUN);
    for (const id of [2, 3]) {
      const { command } = await commands.next();
      cancels.push([command.case, command.value?.id]);
      sendIn(call, id, delta("", [], 1, { end: { reason: FinishReason.CANCELLED } }), COMPLETED);
    }
    sendIn(call, 1, ...REST.slice(1));
  });
  const [one, two, three] = openThree(session);
  const reader = two[Symbol.asyncIterator]();
  await reader.next();
  await two.cancel();
  assert.deepEqual([two.result.text, two.result.finishReason], ["One ", "cancelled"]);
  for await (const _ of three) break;
  assert.equal(await textOf(one), "One two.");
  assert.deepEqual(cancels, [
    ["cancel", 2],
    ["cancel", 3],
  ]);
});

test("one that is not read holds up no other, and goes on with what it is granted", async (test) => {
  const { session } = await sessionOf(test, async (call, commands) => {
    const slow = await commands.opening();
    assert.deepEqual(slow.credit, { case: "creditMessages", value: 1 });
    sendIn(call, slow.id, ...BEGUN);
    sendIn(call, (await commands.opening()).id, ...WHOLE);
    const { credits } = await commands.next();
    assert.deepEqual([credits[0]?.id, credits[0]?.amount], [slow.id, 7]);
    sendIn(call, slow.id, ...REST.slice(1));
  });
  const slow = session.open({ prompt: "slow" }, { creditMessages: 1 });
  assert.equal(await textOf(session.open({ prompt: "fast" })), "Hi");
  slow.grant(7);
  assert.equal(await textOf(slow), "One two.");
});

test("what is open goes on at another frontend when one dies, and what is cancelled does not", async (test) => {
  const again: Open[] = [];
  const { session, frontends } = await sessionOf(
    test,
    async (call, commands) => {
      // The first three have begun, of the fourth nothing has come.
      for (const _ of [1, 2, 3]) sendIn(call, (await commands.opening()).id, ...BEGUN);
    },
    async (call, commands) => {
      for (;;) {
        const opening = await commands.opening();
        again.push(opening);
        const isNew = opening.generation?.outputSoFar.length === 0;
        sendIn(call, opening.id, ...(isNew ? WHOLE : REST));
      }
    },
  );
  const cancelled = session.open({ prompt: "a" });
  const opened = [
    session.open({ prompt: "b" }),
    session.open({ prompt: "c" }, { creditMessages: 5 }),
    session.open({ prompt: "d" }),
  ];
  const begun = [cancelled, ...opened.slice(0, 2)];
  while (begun.some((each) => each.text === "")) await turn();
  const cancelling = cancelled.cancel();
  frontends[0]?.kill();
  assert.deepEqual(await Promise.all(opened.map(textOf)), ["One two.", "One two.", "Hi"]);
  assert.deepEqual(
    opened.map((each) => each.result.continued),
    [1, 1, 0],
  );
  await cancelling;
  assert.equal(cancelled.result.finishReason, "cancelled");
  const asked = again.map(({ generation, credit }) => {
    const soFar = generation?.outputSoFar.map(({ tokenIds }) => tokenIds);
    return JSON.stringify([soFar, credit.value ?? null]);
  });
  // One delta had come of the credit.
  assert.deepEqual(asked.sort(), ["[[[1]],4]", "[[[1]],null]", "[[],null]"]);
});

test("a refusal ends its generation alone, with what the server says", async (test) => {
  const { session } = await sessionOf(test, async (call, commands) => {
    const { id } = await commands.opening();
    const said = { reason: "INVALID_FIELD", fields: ["open.generation.sampling.top_p"] };
    const error = status(codes.INVALID_ARGUMENT, "refused", said);
    call.write(failure(id, error));
    sendIn(call, (await commands.opening()).id, ...WHOLE);
  });
  const [refused, other] = [session.open({ prompt: "a", topP: 2 }), session.open({ prompt: "b" })];
  await assert.rejects(textOf(refused), {
    reason: "INVALID_FIELD",
    violations: [{ field: "open.generation.sampling.top_p", description: "is wrong" }],
  });
  assert.equal(await textOf(other), "Hi");
});

test("what is open on a frontend that drains is read to its end there; what is new goes elsewhere", async (test) => {
  const elsewhere = gate();
  const { session } = await sessionOf(
    test,
    async (call, commands) => {
      const { id } = await commands.opening();
      sendIn(call, id, ...BEGUN);
      const draining = { id: 0, event: { case: "draining", value: {} } } as const;
      call.write(create(SessionResponseSchema, { events: [draining] }));
      await elsewhere.promise;
      sendIn(call, id, ...REST.slice(1));
    },
    async (call, commands) => sendIn(call, (await commands.opening()).id, ...WHOLE),
  );
  const first = session.open({ prompt: "a" });
  const reading = textOf(first);
  while (first.text === "") await turn();
  assert.equal(await textOf(session.open({ prompt: "b" })), "Hi");
  elsewhere.open();
  assert.equal(await reading, "One two.");
  assert.equal(first.result.continued, 0);
});

test("a cancel while a generation is opened again ends it, and the session's end all others", async (test) => {
  const { session } = await sessionOf(test, async (call, commands) => {
    for (const _ of [1, 2, 3]) sendIn(call, (await commands.opening()).id, ...BEGUN);
    const error = status(codes.UNAVAILABLE, "no worker", { reason: "NO_WORKER", retryMs: 9_000 });
    for (const id of [1, 2]) call.write(failure(id, error));
  });
  const all = openThree(session);
  while (all.some((each) => each.text === "")) await turn();
  const [one, ...others] = all;
  const reading = others.map(textOf);
  await one.cancel();
  assert.equal(one.result.finishReason, "cancelled");
  await session.close();
  assert.deepEqual(await Promise.all(reading), ["One ", "One "]);
  assert.throws(() => session.open({ prompt: "c" }), { code: "UNAVAILABLE" });
});

test("a cancel between two streams reaches what outlives them", async (test) => {
  const came: unknown[] = [];
  const { session } = await sessionOf(test, async (call, commands) => {
    const [detached, other] = [await commands.opening(), await commands.opening()];
    sendIn(call, detached.id, accepted("r-1", { resumeToken: "t-1" }), delta("One ", [1], 0));
    const error = status(codes.UNAVAILABLE, "moved", { reason: "KEY_MOVED", retryMs: 50 });
    call.write(failure(detached.id, error));
    sendIn(call, other.id, ...BEGUN);
    const [{ attaches }, { command }] = [await commands.next(), await commands.next()];
    const [attach] = attaches;
    came.push(attach?.generation?.resumeToken, attach?.generation?.tokenOffsets, command.case);
    assert.equal(command.value?.id, attach?.id);
    const end = { end: { reason: FinishReason.CANCELLED } };
    sendIn(call, attach?.id ?? 0, accepted("r-1"), delta("", [], 1, end), COMPLETED);
  });
  const detached = session.open({ prompt: "a", onDisconnect: "detach" });
  const other = session.open({ prompt: "b" });
  // What comes after the failure has come, so that has.
  while (other.text === "") await turn();
  await detached.cancel();
  assert.deepEqual(came, ["t-1", [1], "cancel"]);
  assert.deepEqual([detached.result.text, detached.result.finishReason], ["One ", "cancelled"]);
});
