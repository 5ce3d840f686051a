/**
 * Runs the scenarios that all clients share, and writes what a caller of this one sees.
 *
 *     node dist/scenarios/runner.js --scenarios FILE --target NAME=HOST:PORT ... --out FILE
 */

import { appendFileSync, readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { create, fromJson, type JsonValue } from "@bufbuild/protobuf";
import {
  type Answer,
  Client,
  type GenerationStream,
  type SessionGeneration,
  TokenwireError,
} from "@tokenwire/client";
import { GenerateRequestSchema, type Generation, GenerationSchema } from "@tokenwire/client/proto";

interface Scenario {
  readonly name: string;
  readonly call: "generate" | "stream" | "session";
  readonly targets: readonly string[];
  readonly requests: readonly JsonValue[];
  readonly cancel_after_deltas?: number;
  readonly timeout_ms?: number;
}

/** What all clients say of a generation, in the order in which all of them write it. */
interface Result {
  status: string;
  reason: string;
  fields: string[];
  sequences: object[];
  prompt_tokens: number;
  output_tokens: number;
  gaps: number;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      scenarios: { type: "string" },
      target: { type: "string", multiple: true },
      out: { type: "string" },
    },
  });
  const { scenarios, target, out } = values;
  if (scenarios === undefined || target === undefined || out === undefined) {
    throw new Error("--scenarios, --target and --out are required");
  }
  const targets = new Map(target.map((each) => each.split("=", 2) as [string, string]));
  for (const scenario of JSON.parse(readFileSync(scenarios, "utf8")) as Scenario[]) {
    const generations = await run(scenario, targets);
    appendFileSync(out, `${JSON.stringify({ scenario: scenario.name, generations })}\n`);
  }
}

async function run(scenario: Scenario, targets: ReadonlyMap<string, string>): Promise<Result[]> {
  const addresses = scenario.targets.map((name) => {
    const address = targets.get(name);
    if (address === undefined) throw new Error(`--target ${name}=HOST:PORT is required`);
    return address;
  });
  const requests = scenario.requests.map(
    (each) => fromJson(GenerateRequestSchema, each).generation ?? create(GenerationSchema),
  );
  const client = new Client(addresses, { targetOrder: "listed" });
  try {
    if (scenario.call === "session") return await runSession(client, requests, scenario);
    return await Promise.all(requests.map((each) => runCall(client, each, scenario)));
  } finally {
    client.close();
  }
}

async function runSession(
  client: Client,
  requests: readonly Generation[],
  scenario: Scenario,
): Promise<Result[]> {
  const session = client.session();
  const opened = requests.map((each) => session.open(each));
  const results = await Promise.all(
    opened.map((each, at) => follow(each, at === 0 ? scenario.cancel_after_deltas : undefined)),
  );
  await session.close();
  return results;
}

async function runCall(client: Client, request: Generation, scenario: Scenario): Promise<Result> {
  const options = { timeoutMs: scenario.timeout_ms };
  if (scenario.call === "stream") {
    return await follow(client.stream(request, options), scenario.cancel_after_deltas);
  }
  try {
    return told(await client.generate(request, options), 0);
  } catch (error) {
    return failed(error, 0);
  }
}

/** Reads a generation to its end, or cancels it after so many deltas. */
async function follow(
  generation: GenerationStream | SessionGeneration,
  cancelAfter = Infinity,
): Promise<Result> {
  const seen = new Map<number, number>();
  let [deltas, gaps] = [0, 0];
  try {
    for await (const { sequence, tokenOffset, tokenIds } of generation) {
      if (tokenOffset !== (seen.get(sequence) ?? 0)) gaps += 1;
      seen.set(sequence, tokenOffset + tokenIds.length);
      deltas += 1;
      if (deltas === cancelAfter) void generation.cancel();
    }
    return told(generation.result, gaps);
  } catch (error) {
    return failed(error, gaps);
  }
}

function told(answer: Answer, gaps: number): Result {
  if (answer.sequences.some((each) => each.finishReason === "cancelled")) {
    return nothing("CANCELLED", gaps);
  }
  return {
    ...nothing("OK", gaps),
    sequences: answer.sequences.map((each) => ({
      text: each.text,
      reasoning: each.reasoning,
      tool_calls: each.toolCalls.map(({ name, arguments: text }) => ({ name, arguments: text })),
      finish_reason: `FINISH_REASON_${each.finishReason.toUpperCase()}`,
      token_count: each.tokenIds.length,
    })),
    prompt_tokens: answer.usage.promptTokens,
    output_tokens: answer.usage.completionTokens,
  };
}

function failed(error: unknown, gaps: number): Result {
  if (!(error instanceof TokenwireError)) throw error;
  return {
    ...nothing(error.code, gaps),
    reason: error.reason === error.code ? "" : error.reason,
    fields: error.violations.map(({ field }) => field),
  };
}

function nothing(status: string, gaps: number): Result {
  return {
    status,
    reason: "",
    fields: [],
    sequences: [],
    prompt_tokens: 0,
    output_tokens: 0,
    gaps,
  };
}

await main();
