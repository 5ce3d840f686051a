/** A generation's way over the streams that bring it: what the next one is asked for, and when. */

import { clone, create, isMessage } from "@bufbuild/protobuf";

import { toMs } from "./duration.js";
import { TokenwireError } from "./errors.js";
import {
  type AttachRequest,
  AttachRequestSchema,
  type Generation,
  GenerationSchema,
} from "./gen/tokenwire/frontend/v1/generation_pb.js";
import type { StreamOptions } from "./gen/tokenwire/frontend/v1/options_pb.js";
import { continuation } from "./options.js";
import type { Progress } from "./progress.js";
import { type Attempts, isRetryable } from "./retry.js";

/** What to do when a generation's stream fails. */
export class Course {
  readonly progress: Progress;
  /** How deltas come. */
  readonly stream: StreamOptions | undefined;
  /** How often, and until when, it is tried. */
  readonly attempts: Attempts;
  /** Whether the stream was accepted. */
  isHeard = false;
  readonly #first: Generation | AttachRequest;
  #generation: Generation | undefined;
  readonly #requestBytes: number;
  readonly #beganMs = performance.now();
  #resumeToken: string;
  #isAttaching = false;

  constructor(
    request: Generation | AttachRequest,
    stream: StreamOptions | undefined,
    progress: Progress,
    attempts: Attempts,
    requestBytes: number,
  ) {
    this.#first = request;
    this.#generation = isMessage(request, GenerationSchema) ? request : undefined;
    this.#resumeToken = isMessage(request, AttachRequestSchema) ? request.resumeToken : "";
    this.#requestBytes = requestBytes;
    this.stream = stream;
    this.progress = progress;
    this.attempts = attempts;
  }

  /** Returns what the next stream is to be asked for; throws where a message can't hold it. */
  nextRequest(): Generation | AttachRequest {
    this.isHeard = false;
    const { progress } = this;
    if (progress.accepted === undefined) return this.#first;
    progress.reopen();
    if (this.#resumeToken !== "" || this.#generation === undefined) {
      this.#isAttaching = true;
      return create(AttachRequestSchema, {
        resumeToken: this.#resumeToken,
        tokenOffsets: progress.tokenOffsets(),
        stream: this.stream,
      });
    }
    try {
      return continuation(
        this.#generation,
        progress.hasBegun ? progress.soFar(this.#count) : [],
        progress.accepted.requestId,
        this.#leftMs(),
        this.#requestBytes,
      );
    } catch (error) {
      throw progress.fail(error);
    }
  }

  /** Notes that the stream has brought an event other than a delta. */
  hear(): void {
    const { accepted } = this.progress;
    if (this.isHeard || accepted === undefined) return;
    this.isHeard = true;
    if (this.attempts.hasBegun) this.progress.continued += 1;
    this.attempts.begin();
    this.#resumeToken = accepted.resumeToken ?? this.#resumeToken;
  }

  /**
   * Returns how long to wait before the next request; undefined where the generation has ended.
   * Throws the error where it is the answer.
   *
   * @param elsewhere - The next goes to another frontend, of which nothing bad is known.
   */
  recover(error: TokenwireError, elsewhere: boolean): number | undefined {
    if (this.#isRefusedAttach(error)) {
      this.#resumeToken = "";
      this.#isAttaching = false;
      return 0;
    }
    if (this.#giveUpKey(error)) return 0;
    if (isRetryable(error, this.isHeard)) {
      if (this.#conclude(error)) return undefined;
      if (this.progress.hasBegun && !this.progress.hasIds) {
        error.message += '; not continued: with content "text" the token ids are not known';
        throw this.progress.fail(error);
      }
    }
    const delayMs = this.attempts.delayMs(error, elsewhere, this.isHeard);
    if (delayMs === undefined) throw this.progress.fail(error);
    return delayMs;
  }

  /** Ends the generation where nothing is left to ask for; returns whether that was so. */
  #conclude(error: TokenwireError): boolean {
    const { progress } = this;
    if (this.#generation === undefined || progress.accepted === undefined) return false;
    if (this.#leftMs() === 0 || error.reason === "BUDGET_TOO_SHORT") {
      progress.runOut(this.#count);
      return true;
    }
    return progress.conclude(this.#count);
  }

  /** Whether its frontend does not have it any more: then the ids so far do. */
  #isRefusedAttach(error: TokenwireError): boolean {
    const isSaid = this.#isAttaching && !this.isHeard && !error.isBreak;
    return isSaid && this.#generation !== undefined;
  }

  /**
   * Goes on by the ids alone where another client of the idempotency key goes on with it from a place
   * of its own; returns whether that was so.
   */
  #giveUpKey(error: TokenwireError): boolean {
    const generation = this.#generation;
    const isContinuing = this.progress.accepted !== undefined;
    if (error.reason !== "IDEMPOTENCY_CONFLICT" || !isContinuing || !generation?.idempotencyKey) {
      return false;
    }
    this.#generation = clone(GenerationSchema, generation);
    this.#generation.idempotencyKey = "";
    return true;
  }

  get #count(): number {
    return this.#generation?.sequenceCount || 1;
  }

  /** Returns what is left of the time budget; undefined where there is none. */
  #leftMs(): number | undefined {
    const budgetMs = toMs(this.#generation?.timeBudget);
    if (budgetMs === undefined) return undefined;
    return Math.max(budgetMs - (performance.now() - this.#beganMs), 0);
  }
}
