/** What has come of one sequence. */

import type { ToolCall } from "./chat.js";
import { Seam } from "./seam.js";
import type { Delta, FinishReason, SequenceResult, TokenLogprob } from "./types.js";

export class Sequence {
  /** Ids before the next that comes. */
  offset: number;
  readonly tokenIds: number[] = [];
  ended = false;
  /** Checks the places of the output, where it goes on in another stream. */
  seam: Seam | undefined;
  /** Ids before the first that comes. */
  readonly #begin: number;
  #text = "";
  #reasoning = "";
  readonly #calls = new Map<number, ToolCall>();
  readonly #logprobs: TokenLogprob[] = [];
  // Stands until the server says otherwise: what never got an end was cut short by the caller.
  #finishReason: FinishReason = "cancelled";
  #stopMatch: string | number | undefined;

  constructor(begin = 0) {
    this.#begin = this.offset = begin;
  }

  get hasText(): boolean {
    return this.#text !== "";
  }

  /** Adds a delta whose place has been checked. */
  take(delta: Delta): void {
    this.offset = delta.tokenOffset + delta.tokenIds.length;
    for (const id of delta.tokenIds) this.tokenIds.push(id);
    for (const each of delta.logprobs) this.#logprobs.push(each);
    this.#text += delta.text;
    this.#reasoning += delta.reasoning;
    for (const { index, id, name, arguments: piece } of delta.toolCalls) {
      const { arguments: came, ...known } = this.#calls.get(index) ?? { id, name, arguments: "" };
      this.#calls.set(index, { ...known, arguments: came + piece });
    }
    if (delta.finishReason === undefined) return;
    this.ended = true;
    this.#finishReason = delta.finishReason;
    this.#stopMatch = delta.stopMatch;
  }

  /** Ends it where it is; returns the delta that tells so. */
  cut(sequence: number, finishReason: FinishReason): Delta {
    const delta: Delta = {
      sequence,
      text: "",
      tokenIds: [],
      tokenOffset: this.offset,
      textOffset: Buffer.byteLength(this.#text),
      reasoning: "",
      toolCalls: [],
      logprobs: [],
      finishReason,
      stopMatch: undefined,
    };
    this.take(delta);
    return delta;
  }

  /** Expects what follows what came, from another stream. */
  reopen(echoes: boolean): void {
    this.seam = new Seam({
      text: this.#text,
      reasoning: this.#reasoning,
      arguments: new Map([...this.#calls].map(([index, call]) => [index, call.arguments])),
      isRepeated: this.offset === 0,
      echoes,
      fromStart: this.#begin === 0,
    });
  }

  result(): SequenceResult {
    const ordered = [...this.#calls].sort(([one], [other]) => one - other);
    const toolCalls = ordered.map(([, call]) => call);
    const [text, reasoning] = [this.#text, this.#reasoning];
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
