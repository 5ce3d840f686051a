import assert from "node:assert/strict";
import { once } from "node:events";
import { test, type TestContext } from "node:test";

import { context, ROOT_CONTEXT, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { status } from "@grpc/grpc-js";
import { Client, type ClientOptions, TokenwireError } from "@tokenwire/client";

import {
  accepted,
  breakOff,
  COMPLETED,
  delta,
  END,
  type Handlers,
  refuse,
  ScriptedFrontend,
  send,
  type StreamCall,
  turn,
} from "./scripted_frontend.js";

const BEGUN = [accepted(), delta("One ", [1, 2], 0)];
const REST = [accepted(), delta("two.", [3], 2, { textOffset: 4n, ...END }), COMPLETED];

/** Returns a client of frontends with these handlers, in this order. */
async function clientOf(test: TestContext, all: Handlers[], options: ClientOptions = {}) {
  const frontends = await Promise.all(all.map((each) => ScriptedFrontend.start(test, each)));
  const targets = frontends.map((each) => each.target);
  const client = new Client(targets, { targetOrder: "listed", ...options });
  test.after(() => client.close());
  return { client, frontends };
}

test("an error is decoded, and the request is not repeated", async (test) => {
  let calls = 0;
  const refusing = (call: StreamCall) => {
    calls += 1;
    const fields = ["generation.sampling.top_p", "generation.stop.max_tokens"];
    refuse(call, status.INVALID_ARGUMENT, { reason: "INVALID_FIELD", fields, retryMs: 1_500 });
  };
  const { client } = await clientOf(test, [{ streamGenerate: refusing }]);
  await assert.rejects(client.generate({ prompt: "x" }), (error: unknown) => {
    assert.ok(error instanceof TokenwireError);
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.equal(error.reason, "INVALID_FIELD");
    assert.equal(error.retryAfterMs, 1_500);
    assert.deepEqual(error.violations[1], {
      field: "generation.stop.max_tokens",
      description: "is wrong",
    });
    assert.match(error.traceId, /^[0-9a-f]{32}$/);
    return true;
  });
  assert.equal(calls, 1);
});

test("what no message can hold is refused before anything is sent", async () => {
  const client = new Client("127.0.0.1:1");
  const wrong = { prompt: "x", max_tokens: 3 };
  assert.throws(() => client.stream(wrong), /unknown option "max_tokens"/);
  assert.throws(() => client.stream({ prompt: "x", maxTokens: -1 }), /max_tokens/);
  assert.throws(() => client.stream({ prompt: "x", chat: [] }), /one of prompt and chat/);
  const huge = { prompt: "x".repeat(4 * 1024 * 1024) };
  assert.throws(() => client.stream(huge), { reason: "REQUEST_TOO_LARGE" });
  assert.throws(() => new Client("example.com:1", { apiKey: "tw_1" }), /plain text/);
});

test("an overload is repeated after the time that the server asks for", async (test) => {
  const times: number[] = [];
  const busy = (call: StreamCall) => {
    times.push(performance.now());
    if (times.length > 1) {
      send(call, accepted(), delta("Hi", [1], 0, END), COMPLETED);
      call.end();
    } else {
      refuse(call, status.RESOURCE_EXHAUSTED, { reason: "QUEUE_FULL", retryMs: 60 });
    }
  };
  const retry = { firstDelayMs: 1 };
  const { client } = await clientOf(test, [{ streamGenerate: busy }], { retry });
  const answer = await client.generate({ prompt: "x" });
  assert.equal(answer.text, "Hi");
  assert.ok((times[1] ?? 0) - (times[0] ?? 0) >= 59);
});

test("a stream whose frontend dies goes on at another one, without a gap or a repeat", async (test) => {
  let asked: StreamCall["request"] | undefined;
  const going = (call: StreamCall) => {
    asked = call.request;
    // The last byte that came comes again.
    const rest = delta(" two.", [3], 2, { textOffset: 3n, ...END });
    send(call, accepted(), rest, COMPLETED);
    call.end();
  };
  const { client, frontends } = await clientOf(test, [
    { streamGenerate: (call) => send(call, ...BEGUN) },
    { streamGenerate: going },
  ]);
  const stream = client.stream({ prompt: "Count", maxTokens: 9, timeBudgetMs: 60_000 });
  const deltas = [];
  for await (const each of stream) {
    deltas.push(each);
    frontends[0]?.kill();
  }
  assert.deepEqual(
    deltas.map(({ text, tokenOffset, textOffset }) => [text, tokenOffset, textOffset]),
    [
      ["One ", 0, 0],
      ["two.", 2, 4],
    ],
  );
  const { text, tokenIds, finishReason, continued } = stream.result;
  assert.deepEqual(
    { text, tokenIds, finishReason, continued },
    { text: "One two.", tokenIds: [1, 2, 3], finishReason: "stop", continued: 1 },
  );
  const generation = asked?.generation;
  assert.equal(generation?.requestId, "r-1");
  assert.equal(generation?.stop?.maxTokens, 9);
  assert.deepEqual(
    generation?.outputSoFar.map((each) => each.tokenIds),
    [[1, 2]],
  );
  // What is left of the budget.
  assert.equal(generation?.timeBudget?.seconds, 59n);
});

for (const [what, event] of [
  ["begins anew", delta("One ", [1, 2], 0)],
  ["leaves out a token", delta("two.", [4], 3, { textOffset: 4n })],
] as const) {
  test(`a frontend that ${what} is a fault, and no text comes twice`, async (test) => {
    const { client } = await clientOf(test, [
      {
        streamGenerate: (call) => {
          send(call, ...BEGUN);
          breakOff(call);
        },
      },
      { streamGenerate: (call) => send(call, accepted(), event) },
    ]);
    await assert.rejects(client.generate({ prompt: "x" }), { reason: "STREAM_GAP" });
  });
}

test("a detached generation is attached again, and continued where it is gone", async (test) => {
  let asked: number[] | undefined;
  const { client } = await clientOf(test, [
    {
      streamGenerate: (call) => {
        send(call, accepted("r-1", { resumeToken: "t-1" }), delta("One ", [1, 2], 0));
        breakOff(call);
      },
    },
    {
      attach: (call) => {
        asked = call.request.tokenOffsets;
        refuse(call, status.NOT_FOUND, { reason: "OWNER_GONE" });
      },
      streamGenerate: (call) => {
        send(call, ...REST);
        call.end();
      },
    },
  ]);
  const answer = await client.generate({ prompt: "x", onDisconnect: "detach" });
  assert.equal(answer.text, "One two.");
  assert.deepEqual(asked, [2]);
});

test("what an attached generation repeats is trimmed, from whichever id on", async (test) => {
  let calls = 0;
  const resumed = accepted("r-1", { resumeToken: "t-1" });
  const { client } = await clientOf(test, [
    {
      attach: (call) => {
        calls += 1;
        if (calls === 1) {
          send(call, resumed, delta("two ", [3], 2, { textOffset: 4n }));
          breakOff(call);
        } else {
          send(call, resumed, delta("wo three", [4], 3, { textOffset: 5n, ...END }), COMPLETED);
          call.end();
        }
      },
    },
  ]);
  const stream = client.attach("t-1", { tokenOffsets: [2] });
  const texts = [];
  for await (const { text, textOffset } of stream) texts.push([text, textOffset]);
  assert.deepEqual(texts, [
    ["two ", 4],
    ["three", 8],
  ]);
});

test("a key that another client goes on with is given up, and the ids go on", async (test) => {
  const keys: unknown[] = [];
  const { client } = await clientOf(test, [
    {
      streamGenerate: (call) => {
        keys.push(call.request.generation?.idempotencyKey);
        if (keys.length === 2) {
          refuse(call, status.ALREADY_EXISTS, { reason: "IDEMPOTENCY_CONFLICT" });
          return;
        }
        send(call, ...(keys.length === 1 ? BEGUN : REST));
        if (keys.length === 1) breakOff(call);
        else call.end();
      },
    },
  ]);
  const answer = await client.generate({ prompt: "x", idempotencyKey: "k-1" });
  assert.equal(answer.text, "One two.");
  assert.deepEqual(keys, ["k-1", "k-1", ""]);
});

test(
  "a cancel while the stream is opened again ends it at once",
  { timeout: 5_000 },
  async (test) => {
    const calls: StreamCall[] = [];
    const breaking = (call: StreamCall) => {
      calls.push(call);
      send(call, ...BEGUN);
      refuse(call, status.UNAVAILABLE, { reason: "NO_WORKER", retryMs: 9_000 });
    };
    const { client } = await clientOf(test, [{ streamGenerate: breaking }]);
    const stream = client.stream({ prompt: "x" });
    const reader = stream[Symbol.asyncIterator]();
    await reader.next();
    const read = reader.next();
    // The break is on its way; turns of the loop until it has come, and the wait has begun.
    for (let turns = 0; turns < 100; turns += 1) await turn();
    stream.cancel();
    assert.equal((await read).done, true);
    assert.equal(stream.result.text, "One ");
    assert.equal(stream.result.finishReason, "cancelled");
    assert.equal(calls.length, 1);
  },
);

test("an aborted signal stops the call and is what reading throws; a left loop stops it too", async (test) => {
  const calls: StreamCall[] = [];
  const { client } = await clientOf(test, [
    {
      streamGenerate: (call) => {
        calls.push(call);
        send(call, ...BEGUN);
      },
    },
  ]);
  const control = new AbortController();
  const reason = new Error("no more");
  await assert.rejects(async () => {
    const stream = client.stream({ prompt: "x" }, { signal: control.signal });
    for await (const _ of stream) control.abort(reason);
  }, reason);
  for await (const _ of client.stream({ prompt: "x" })) break;
  for (const call of calls) if (!call.cancelled) await once(call, "cancelled");
  assert.equal(calls.length, 2);
});

test("a deadline holds over all attempts together", async (test) => {
  const silent = { streamGenerate: (call: StreamCall) => send(call, accepted()) };
  const { client } = await clientOf(test, [silent]);
  await assert.rejects(client.generate({ prompt: "x" }, { timeoutMs: 80 }), {
    code: "DEADLINE_EXCEEDED",
  });
});

test("a call belongs to the active span", async (test) => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  test.after(() => context.disable());
  const came: unknown[] = [];
  const { client } = await clientOf(
    test,
    [
      {
        streamGenerate: (call) => {
          came.push(...call.metadata.get("traceparent"), ...call.metadata.get("authorization"));
          send(call, accepted(), delta("Hi", [1], 0, END), COMPLETED);
          call.end();
        },
      },
    ],
    { apiKey: () => "tw_1" },
  );
  const span = { traceId: "c".repeat(32), spanId: "d".repeat(16), traceFlags: 1 };
  await context.with(trace.setSpanContext(ROOT_CONTEXT, span), () =>
    client.generate({ prompt: "x" }),
  );
  assert.deepEqual(came, [`00-${span.traceId}-${span.spanId}-01`, "Bearer tw_1"]);
});
