/** One of a session's generations: what has come of it, and the stream that it is open on. */

import { create, isMessage } from "@bufbuild/protobuf";

import type { Course } from "./course.js";
import { fromStatus, type TokenwireError } from "./errors.js";
import * as pb from "./gen/tokenwire/frontend/v1/generation_pb.js";
import type { Link } from "./link.js";
import type { Progress } from "./progress.js";
import type { Trace } from "./trace.js";
import type { Delta } from "./types.js";

const MOST_CREDIT = 2 ** 32 - 1;

/** How much more of a generation may come. */
export class Credit {
  readonly #kind: "creditTokens" | "creditMessages";
  #left: number;

  private constructor(kind: "creditTokens" | "creditMessages", left: number) {
    checkAmount(kind, left, 0);
    this.#kind = kind;
    this.#left = left;
  }

  /** Returns the credit of one kind; undefined where none is given. */
  static of(tokens: number | undefined, messages: number | undefined): Credit | undefined {
    if (tokens !== undefined && messages !== undefined) {
      throw new TypeError("creditTokens and creditMessages were both given; one is allowed");
    }
    if (tokens !== undefined) return new Credit("creditTokens", tokens);
    return messages === undefined ? undefined : new Credit("creditMessages", messages);
  }

  /** What an opening says of it. */
  get field(): pb.Open["credit"] {
    return { case: this.#kind, value: this.#left };
  }

  /** Notes that a delta came. */
  use(delta: Delta): void {
    const used = this.#kind === "creditTokens" ? delta.tokenIds.length : 1;
    this.#left = Math.max(this.#left - used, 0);
  }

  /** Adds to it; throws RangeError for an amount that a message can't hold. */
  add(amount: number): void {
    checkAmount("amount", amount, 1);
    this.#left = Math.min(this.#left + amount, MOST_CREDIT);
  }
}

function checkAmount(name: string, amount: number, least: number): void {
  if (Number.isInteger(amount) && amount >= least && amount <= MOST_CREDIT) return;
  throw new RangeError(`${name}: ${amount} is not from ${least} to ${MOST_CREDIT}`);
}

/** A generation of a session. */
export class Lane {
  readonly progress: Progress;
  /** What is not read yet. */
  readonly deltas: Delta[] = [];
  readonly #course: Course;
  readonly #credit: Credit | undefined;
  readonly #trace: Trace;
  readonly #waiting: (() => void)[] = [];
  #link: Link | undefined;
  #number = 0;

  constructor(course: Course, credit: Credit | undefined, trace: Trace) {
    this.progress = course.progress;
    this.#course = course;
    this.#credit = credit;
    this.#trace = trace;
  }

  /** Whether nothing more comes. */
  get ended(): boolean {
    return this.progress.ended;
  }

  /** Whether it outlives the session. */
  get isDetached(): boolean {
    return this.progress.accepted?.resumeToken !== undefined;
  }

  /** Returns when something has happened. */
  news(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Opens it on a stream, for all that has not come yet. */
  openOn(link: Link): void {
    let request: pb.Generation | pb.AttachRequest;
    try {
      request = this.#course.nextRequest();
    } catch (error) {
      this.progress.fail(error);
      this.#tell();
      return;
    }
    const id = (this.#number = link.add(this));
    this.#link = link;
    const credit = this.#credit?.field;
    if (isMessage(request, pb.GenerationSchema)) {
      const { stream } = this.#course;
      const traceContext = create(pb.TraceContextSchema, { ...this.#trace.headers });
      const value = create(pb.OpenSchema, {
        id,
        generation: request,
        stream,
        traceContext,
        credit,
      });
      link.send(create(pb.SessionRequestSchema, { command: { case: "open", value } }));
    } else {
      const attach = create(pb.AttachSchema, { id, generation: request, credit });
      link.send(create(pb.SessionRequestSchema, { attaches: [attach] }));
    }
    if (this.progress.cancelled) this.#sendCancel();
  }

  /** Takes an event; returns what the stream's part of the generation failed with. */
  receive(event: pb.SessionEvent["event"]): TokenwireError | undefined {
    this.#tell();
    const { progress } = this;
    if (event.case === "error") {
      this.#close();
      return fromStatus(event.value, progress.traceId);
    }
    // Else nobody wants it, and the cancel is on its way.
    if (event.case === "delta" && progress.ended) return undefined;
    try {
      const delta = progress.take(event);
      if (delta !== undefined) {
        this.deltas.push(delta);
        this.#credit?.use(delta);
        return undefined;
      }
    } catch (error) {
      progress.fail(error);
      this.#sendCancel();
      return undefined;
    }
    this.#course.hear();
    if (event.case === "completed") {
      this.#close();
      progress.ended = true;
    }
    return undefined;
  }

  /** Returns how long to wait before it is opened again; undefined where it has ended. */
  recover(error: TokenwireError, elsewhere: boolean): number | undefined {
    this.#link = undefined;
    this.#tell();
    const { progress } = this;
    if (progress.ended || (progress.cancelled && !this.isDetached)) {
      progress.ended = true;
      return undefined;
    }
    let delayMs: number | undefined;
    try {
      delayMs = this.#course.recover(error, elsewhere);
    } catch (answer) {
      progress.fail(answer);
      return undefined;
    }
    if (delayMs === undefined) this.deltas.push(...progress.unsaid);
    return delayMs;
  }

  /** Ends it, since it can't be opened any more. */
  breakOff(error: unknown): void {
    this.#link = undefined;
    if (this.progress.cancelled) this.progress.ended = true;
    else if (!this.progress.ended) this.progress.fail(error);
    this.#tell();
  }

  /**
   * Stops it; what came and the end still come. What outlives its streams goes on between two of
   * them: it is told with the next one.
   */
  cancel(): void {
    if (this.progress.ended) return;
    this.progress.cancelled = true;
    if (this.#link !== undefined) this.#sendCancel();
    else if (!this.isDetached) this.progress.ended = true;
    this.#tell();
  }

  /** Takes no more of it, and stops it unless it is to go on without a caller. */
  letGo(): void {
    if (this.progress.ended) return;
    if (!this.isDetached) this.cancel();
    this.progress.cancelled = this.progress.ended = true;
    this.deltas.length = 0;
    this.#tell();
  }

  /** Allows more. */
  grant(amount: number): void {
    if (this.#credit === undefined) {
      throw new TypeError("the generation was opened without credit");
    }
    this.#credit.add(amount);
    const more = create(pb.CreditSchema, { id: this.#number, amount });
    this.#link?.send(create(pb.SessionRequestSchema, { credits: [more] }));
  }

  #sendCancel(): void {
    const value = create(pb.CancelSchema, { id: this.#number });
    this.#link?.send(create(pb.SessionRequestSchema, { command: { case: "cancel", value } }));
  }

  /** Notes that its number on the stream is free again. */
  #close(): void {
    this.#link?.remove(this.#number);
    this.#link = undefined;
  }

  #tell(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}
