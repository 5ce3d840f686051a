/** One streamed generation as the client sees it, however its events arrive. */

import { create } from "@bufbuild/protobuf";

import { TokenwireError } from "./errors.js";
import * as pb from "./gen/tokenwire/frontend/v1/generation_pb.js";
import { type StreamOptions, StreamContent } from "./gen/tokenwire/frontend/v1/options_pb.js";
import { GapError } from "./seam.js";
import { Sequence } from "./sequence.js";
import type { Trace } from "./trace.js";
import {
  type Accepted,
  type Answer,
  type Attempt,
  type Delta,
  NO_TIMINGS,
  type Timings,
  type TokenLogprob,
  toAccepted,
  toAttempt,
  toLogprobs,
  toTimings,
  toUsage,
  type Usage,
} from "./types.js";

/** What a stream of any kind brings of a generation. */
export type Event =
  pb.StreamGenerateResponse["event"] | pb.AttachResponse["event"] | pb.SessionEvent["event"];

interface Figures {
  readonly usage: Usage;
  readonly timings: Timings;
  readonly attempts: readonly Attempt[];
}

/** Puts a generation's events together, and checks that none is missing. */
export class Progress {
  accepted: Accepted | undefined;
  error: unknown;
  /** Times that it went on from another stream. */
  continued = 0;
  cancelled = false;
  ended = false;
  promptLogprobs: TokenLogprob[] = [];
  /** Deltas that no stream brought. */
  readonly unsaid: Delta[] = [];
  readonly hasIds: boolean;
  readonly #hasText: boolean;
  readonly #echoes: boolean;
  readonly #trace: Trace;
  readonly #sequences = new Map<number, Sequence>();
  #figures: Figures | undefined;

  /**
   * @param trace - Its trace, as far as the client knows it.
   * @param generation - What was asked for; undefined where it was begun by another call.
   * @param stream - How it comes.
   * @param tokenOffsets - Ids of each sequence that are known already.
   */
  constructor(
    trace: Trace,
    generation: pb.Generation | undefined,
    stream: StreamOptions | undefined,
    tokenOffsets: readonly number[] = [],
  ) {
    this.#trace = trace;
    this.#echoes = generation === undefined || generation.output?.echo === true;
    this.hasIds = stream?.content !== StreamContent.TEXT;
    this.#hasText = stream?.content !== StreamContent.IDS;
    tokenOffsets.forEach((ids, at) => this.#sequences.set(at, new Sequence(ids)));
  }

  /** The request's trace id as far as it is known: the server's word, else the client's. */
  get traceId(): string {
    return this.accepted?.traceId || this.#trace.traceId;
  }

  /** Notes an event, and returns the delta where it is one; throws on a gap. */
  take(event: Event): Delta | undefined {
    switch (event.case) {
      case "delta":
        return this.#takeDelta(event.value);
      case "accepted":
        this.accepted = toAccepted(event.value);
        break;
      case "completed":
        this.#figures = {
          usage: toUsage(event.value.usage),
          timings: toTimings(event.value.timings),
          attempts: event.value.attempts.map(toAttempt),
        };
        break;
      case "promptLogprobs":
        this.#takePrompt(event.value);
    }
    return undefined;
  }

  #takePrompt(message: pb.PromptLogprobs): void {
    const come = this.promptLogprobs.length;
    if (message.tokenOffset !== come) {
      throw this.#gap(`the prompt went on at token ${message.tokenOffset} after ${come}`);
    }
    this.promptLogprobs.push(...toLogprobs(message.tokens));
  }

  #takeDelta(message: pb.Delta): Delta {
    const index = message.sequence;
    const sequence = this.#sequences.get(index) ?? this.#add(index);
    try {
      sequence.seam?.trim(message);
    } catch (fault) {
      if (!(fault instanceof GapError)) throw fault;
      throw this.#gap(`sequence ${index}: ${fault.message}`);
    }
    const skips = message.tokenOffset - sequence.offset;
    if (skips < 0 || (skips > 0 && this.hasIds)) {
      const places = `token ${message.tokenOffset} after ${sequence.offset} tokens`;
      throw this.#gap(`sequence ${index} went on at ${places}`);
    }
    return sequence.take(message);
  }

  /** Notes that the stream has ended; returns the error where the generation has not. */
  close(): TokenwireError | undefined {
    if (this.#figures !== undefined || this.cancelled) {
      this.ended = true;
      return undefined;
    }
    return new TokenwireError("INTERNAL", "the stream ended before the generation did", {
      reason: "STREAM_CUT",
      traceId: this.traceId,
      isBreak: true,
    });
  }

  // How it goes on from another stream.

  /** Whether ids have come, or text of which the ids do not, or an end. */
  get hasBegun(): boolean {
    return [...this.#sequences.values()].some(
      (each) => each.offset > 0 || each.ended || (each.text !== "" && !this.hasIds),
    );
  }

  /** Returns what there is of so many sequences. */
  soFar(count: number): pb.SequenceSoFar[] {
    return Array.from({ length: count }, (_, index) => {
      const { tokenIds, ended } = this.#sequences.get(index) ?? new Sequence();
      return create(pb.SequenceSoFarSchema, { tokenIds: [...tokenIds], ended });
    });
  }

  /** Returns how many ids of each sequence are known, up to the last of which any are. */
  tokenOffsets(): number[] {
    const length = Math.max(-1, ...this.#sequences.keys()) + 1;
    return Array.from({ length }, (_, index) => this.#sequences.get(index)?.offset ?? 0);
  }

  /** Expects what follows what came, from another stream. */
  reopen(): void {
    if (!this.hasBegun) this.promptLogprobs = [];
    if (!this.#hasText) return;
    for (const each of this.#sequences.values()) each.reopen(this.#echoes);
  }

  /** Ends the generation if of so many sequences only the figures are missing. */
  conclude(count: number): boolean {
    const ended = [...this.#sequences.values()].filter((each) => each.ended).length;
    if (ended < count) return false;
    this.#figures = this.#counted();
    this.ended = true;
    return true;
  }

  /** Ends the generation with what came, since its time budget is spent. */
  runOut(count: number): void {
    for (let index = 0; index < count; index += 1) {
      const sequence = this.#sequences.get(index) ?? this.#add(index);
      if (!sequence.ended) this.unsaid.push(sequence.cut(index, pb.FinishReason.TIME_BUDGET));
    }
    this.conclude(count);
  }

  /** Notes that the generation failed, and returns the error to throw. */
  fail<E>(error: E): E {
    this.ended = true;
    this.error = error;
    return error;
  }

  #add(index: number): Sequence {
    const sequence = new Sequence();
    // Without ids only the text's own offsets can be checked.
    if (!this.hasIds) sequence.reopen(this.#echoes);
    this.#sequences.set(index, sequence);
    return sequence;
  }

  #gap(message: string): TokenwireError {
    const details = { reason: "STREAM_GAP", traceId: this.traceId };
    return this.fail(new TokenwireError("INTERNAL", message, details));
  }

  /** Returns the whole generation; see `StreamedGeneration.result`. */
  answer(): Answer {
    if (this.error !== undefined) throw this.error;
    if (this.#figures === undefined && !this.cancelled) {
      throw new Error("the result comes with the stream's end; read it first");
    }
    const ordered = [...this.#sequences].sort(([one], [other]) => one - other);
    const sequences = ordered.map(([, sequence]) => sequence.result());
    const first = sequences[0] ?? new Sequence().result();
    return {
      ...first,
      sequences: sequences.length > 0 ? sequences : [first],
      requestId: this.accepted?.requestId ?? "",
      traceId: this.traceId,
      ...(this.#figures ?? this.#counted()),
      promptLogprobs: this.promptLogprobs,
      conversation: this.accepted?.conversation,
      continued: this.continued,
    };
  }

  /** The first sequence's text so far. */
  get text(): string {
    return this.#sequences.get(0)?.text ?? "";
  }

  #counted(): Figures {
    let completionTokens = 0;
    for (const each of this.#sequences.values()) completionTokens += each.offset;
    const promptTokens = this.accepted?.promptTokens ?? 0;
    const usage = { promptTokens, completionTokens, cachedPromptTokens: undefined };
    return { usage, timings: NO_TIMINGS, attempts: [] };
  }
}

/** What every stream of a generation has beside its deltas. */
export abstract class StreamedGeneration implements AsyncIterable<Delta> {
  /** What came. */
  protected readonly progress: Progress;

  constructor(progress: Progress) {
    this.progress = progress;
  }

  abstract [Symbol.asyncIterator](): AsyncIterator<Delta, void, undefined>;

  /** The request's id, trace id and prompt length; undefined until a worker took the request. */
  get accepted(): Accepted | undefined {
    return this.progress.accepted;
  }

  /** By which the services' logs and traces name the request; 32 hex digits. */
  get traceId(): string {
    return this.progress.traceId;
  }

  /** The text of the first sequence, as far as it has come. */
  get text(): string {
    return this.progress.text;
  }

  /** Times that the client continued it on another stream. */
  get continued(): number {
    return this.progress.continued;
  }

  /**
   * The whole generation, once the stream has ended. After `cancel` it holds what had come, with the
   * finish reason `cancelled`. Throws what the generation failed with.
   */
  get result(): Answer {
    return this.progress.answer();
  }
}
