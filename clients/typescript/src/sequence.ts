/** What has come of one sequence. */

import { create } from "@bufbuild/protobuf";

import * as pb from "./gen/tokenwire/frontend/v1/generation_pb.js";
import { type Run, Seam } from "./seam.js";
import {
  type Delta,
  type FinishReason,
  type SequenceResult,
  toDelta,
  type TokenLogprob,
} from "./types.js";

export class Sequence {
  /** Ids before the next that comes. */
  offset: number;
  readonly tokenIds: number[] = [];
  ended = false;
  /** Checks the places of the output, where it goes on in another stream. */
  seam: Seam | undefined;
  /** Of a run of which nothing came: whether it is known that it begins at 0. */
  readonly #unseen: Run;
  #text: Run;
  #reasoning: Run;
  readonly #calls = new Map<number, Call>();
  readonly #logprobs: TokenLogprob[] = [];
  // Stands until the server says otherwise: what never got an end was cut short by the caller.
  #finishReason: FinishReason = "cancelled";
  #stopMatch: string | number | undefined;

  /** @param begin - Ids before the first that comes. */
  constructor(begin = 0) {
    this.offset = begin;
    this.#unseen = { came: "", end: begin === 0 ? 0 : undefined };
    this.#text = this.#reasoning = this.#unseen;
  }

  get text(): string {
    return this.#text.came;
  }

  /** Adds a delta whose place has been checked, and returns it for the caller. */
  take(message: pb.Delta): Delta {
    const delta = toDelta(message);
    this.offset = delta.tokenOffset + delta.tokenIds.length;
    for (const id of delta.tokenIds) this.tokenIds.push(id);
    for (const each of delta.logprobs) this.#logprobs.push(each);
    this.#text = longer(this.#text, message.text, message.textOffset);
    this.#reasoning = longer(this.#reasoning, message.reasoning, message.reasoningOffset);
    for (const each of message.toolCalls) {
      const { id, name, json } = this.#calls.get(each.index) ?? { ...each, json: this.#unseen };
      const more = longer(json, each.arguments, each.argumentsOffset);
      this.#calls.set(each.index, { id, name, json: more });
    }
    if (delta.finishReason !== undefined) {
      this.ended = true;
      this.#finishReason = delta.finishReason;
      this.#stopMatch = delta.stopMatch;
    }
    return delta;
  }

  /** Ends it where it is; returns the delta that tells so. */
  cut(sequence: number, reason: pb.FinishReason): Delta {
    const textOffset = BigInt(this.#text.end ?? 0);
    const end = create(pb.SequenceEndSchema, { reason });
    const place = { sequence, tokenOffset: this.offset, textOffset };
    return this.take(create(pb.DeltaSchema, { ...place, end }));
  }

  /** Expects what follows what came, from another stream. */
  reopen(echoes: boolean): void {
    // The offsets do not count a prompt that was echoed before the first id.
    const isCounted = this.#unseen.end === undefined || !echoes;
    this.seam = new Seam({
      text: isCounted ? this.#text : { ...this.#text, end: undefined },
      reasoning: this.#reasoning,
      arguments: new Map([...this.#calls].map(([index, { json }]) => [index, json])),
      isRepeated: this.offset === 0,
      newCall: this.#unseen,
    });
  }

  result(): SequenceResult {
    const ordered = [...this.#calls].sort(([one], [other]) => one - other);
    const toolCalls = ordered.map(([, { id, name, json }]) => ({ id, name, arguments: json.came }));
    const [text, reasoning] = [this.#text.came, this.#reasoning.came];
    // A turn of calls alone has no content, which templates tell from an empty one.
    const content = text === "" && toolCalls.length > 0 ? null : text;
    return {
      text,
      reasoning,
      toolCalls,
      tokenIds: this.tokenIds,
      logprobs: this.#logprobs,
      finishReason: this.#finishReason,
      stopMatch: this.#stopMatch,
      message: { role: "assistant", content, reasoning, toolCalls },
    };
  }
}

interface Call {
  readonly id: string;
  readonly name: string;
  readonly json: Run;
}

function longer(run: Run, piece: string, offset: bigint): Run {
  if (piece === "") return run;
  return { came: run.came + piece, end: Number(offset) + Buffer.byteLength(piece) };
}
