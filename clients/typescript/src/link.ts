/** One stream of a session: what is sent on it, and which generations are open there. */

import { fromFailure, type TokenwireError } from "./errors.js";
import type { DuplexStream, Frontend } from "./frontend.js";
import {
  GenerationService,
  type SessionEvent,
  type SessionRequest,
  type SessionResponse,
} from "./gen/tokenwire/frontend/v1/generation_pb.js";
import type { Lane } from "./lane.js";
import type { Trace } from "./trace.js";

const LARGEST_ID = 2 ** 32 - 1;

/** A stream to one frontend. */
export class Link {
  readonly frontend: Frontend;
  /** The generations that are open, by number. */
  readonly lanes = new Map<number, Lane>();
  readonly #trace: Trace;
  readonly #call: DuplexStream<SessionRequest, SessionResponse>;
  #lastId = 0;
  #isLeft = false;
  #isFinished = false;

  /** @param trace - The stream's own. */
  constructor(frontend: Frontend, trace: Trace) {
    this.frontend = frontend;
    this.#trace = trace;
    this.#call = frontend.duplex(GenerationService.method.session, { trace });
  }

  /** Returns the number of one more generation. */
  add(lane: Lane): number {
    // Ascending, so that a cancel that crossed a generation's end never meets the next one.
    do this.#lastId = (this.#lastId % LARGEST_ID) + 1;
    while (this.lanes.has(this.#lastId));
    this.lanes.set(this.#lastId, lane);
    return this.#lastId;
  }

  /** Notes that a number is free again. */
  remove(id: number): void {
    this.lanes.delete(id);
    if (this.#isLeft && this.lanes.size === 0) this.finish();
  }

  /** Sends a command, after those before it. */
  send(command: SessionRequest): void {
    if (!this.#isFinished) this.#call.write(command);
  }

  /** Notes that nothing more will be opened: the stream ends when nothing is open. */
  leave(): void {
    this.#isLeft = true;
    if (this.lanes.size === 0) this.finish();
  }

  /** Ends the sending side. */
  finish(): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    this.#call.end();
  }

  /** Cuts the stream off. */
  cancel(): void {
    this.#isFinished = true;
    this.#call.cancel();
  }

  /** Reads until the stream ends; returns what it failed with. */
  async read(take: (event: SessionEvent) => void): Promise<TokenwireError | undefined> {
    try {
      for await (const { events } of this.#call) events.forEach(take);
      return undefined;
    } catch (failure) {
      return fromFailure(failure, this.#trace.traceId);
    } finally {
      this.finish();
    }
  }

  /** Returns what was open, and lets go of it. */
  brokenOff(): Lane[] {
    const lanes = [...this.lanes.values()];
    this.lanes.clear();
    return lanes;
  }
}
