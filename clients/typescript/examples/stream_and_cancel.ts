/**
 * Streams an answer, then starts a long one, cancels it midway, and shows that the engine stops.
 *
 *     node dist/examples/stream_and_cancel.js [HOST:PORT]
 */

import { setTimeout } from "node:timers/promises";

import { Client } from "@tokenwire/client";
import { ModelService } from "@tokenwire/client/proto";

const LONGEST_WAIT_MS = 10_000;
const POLL_MS = 50;

const client = new Client(process.argv[2] ?? "127.0.0.1:50051");

/** Returns how many sequences run in the engines, from all callers. */
async function running(): Promise<number> {
  const { workers } = await client.call(ModelService.method.listWorkers);
  return workers.reduce((sum, worker) => sum + worker.running, 0);
}

/** Waits until the frontend has heard of so many from its workers. */
async function awaitRunning(isIt: (count: number) => boolean): Promise<number> {
  const until = Date.now() + LONGEST_WAIT_MS;
  for (;;) {
    const count = await running();
    if (isIt(count)) return count;
    if (Date.now() > until) throw new Error(`${count} sequences still run`);
    await setTimeout(POLL_MS);
  }
}

const before = await running();
const chat = [{ role: "user", content: "Tell me a story." }] as const;
for await (const delta of client.stream({ chat, maxTokens: 64 })) process.stdout.write(delta.text);

const long = client.stream({ chat, ignoreEos: true });
let deltas = 0;
for await (const _ of long) {
  deltas += 1;
  if (deltas < 3) continue;
  console.log(`\n\nrunning while the long answer comes: ${await awaitRunning((n) => n > before)}`);
  long.cancel();
}
const { finishReason, tokenIds } = long.result;
console.log(`cancelled after ${tokenIds.length} tokens: ${finishReason}`);
const cancelledAt = Date.now();
const after = await awaitRunning((n) => n <= before);
console.log(`running afterwards: ${after}, seen after ${Date.now() - cancelledAt} ms`);
client.close();
