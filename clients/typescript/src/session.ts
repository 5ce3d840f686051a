/** Many generations on one stream. */

import { isMessage } from "@bufbuild/protobuf";

import { Course } from "./course.js";
import { TokenwireError } from "./errors.js";
import type { Frontends } from "./frontends.js";
import {
  type AttachRequest,
  type Generation,
  GenerationSchema,
  type SessionEvent,
} from "./gen/tokenwire/frontend/v1/generation_pb.js";
import { Credit, Lane } from "./lane.js";
import { Link } from "./link.js";
import {
  type DeltaOptions,
  type GenerationRequest,
  toAttach,
  toGeneration,
  toStream,
  WHOLE_ANSWER_DELAY_MS,
} from "./options.js";
import { pause } from "./pause.js";
import { Progress, StreamedGeneration } from "./progress.js";
import { Attempts, type RetryPolicy } from "./retry.js";
import { Trace } from "./trace.js";
import type { Answer, Delta } from "./types.js";

/** Time that a server has to end a stream after the client has; then it is cut off. */
const CLOSE_GRACE_MS = 2_000;

/** How one of a session's generations comes. */
export interface OpenOptions extends DeltaOptions {
  /** Most tokens that come until `grant` allows more. Not with `creditMessages`. */
  readonly creditTokens?: number;
  /** Most deltas that come until `grant` allows more. */
  readonly creditMessages?: number;
  /** Ends the generation when it is aborted; reading it then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** What attaching to a generation takes beside its token. */
export interface AttachOptions {
  /** Ids of each sequence that the caller has. */
  readonly tokenOffsets?: readonly number[];
}

/**
 * Generations that share one stream; made by `Client.session`.
 *
 * A generation that fails or is refused leaves the others alone, and one that nobody reads holds up
 * none: its deltas wait in the client, as many as it may produce or its credit allows. When the stream
 * breaks, or its frontend is about to stop, the session opens another: what is open is continued
 * there. gRPC has no deadline for one of a session's generations: use `timeBudgetMs`, or `cancel`.
 */
export class Session {
  readonly #frontends: Frontends;
  readonly #trace: Trace | undefined;
  readonly #retry: RetryPolicy;
  readonly #requestBytes: number;
  readonly #reading = new Map<Link, Promise<void>>();
  readonly #reopening = new Set<Lane>();
  /** Aborted when the session is closed. */
  readonly #closed = new AbortController();
  /** The stream that what is opened goes to. */
  #link: Link | undefined;

  constructor(
    frontends: Frontends,
    trace: Trace | undefined,
    retry: RetryPolicy,
    requestBytes: number,
  ) {
    this.#frontends = frontends;
    this.#trace = trace;
    this.#retry = retry;
    this.#requestBytes = requestBytes;
  }

  /** Opens a generation. Throws for a request that no message holds, and after `close`. */
  open(request: GenerationRequest, options: OpenOptions = {}): SessionGeneration {
    return this.#begin(toGeneration(request, this.#requestBytes), options);
  }

  /** Opens what follows of a generation that outlives its call; `cancel` ends it. */
  attach(resumeToken: string, options: OpenOptions & AttachOptions = {}): SessionGeneration {
    const { tokenOffsets = [] } = options;
    return this.#begin(toAttach(resumeToken, tokenOffsets, options), options, tokenOffsets);
  }

  /** Returns the whole answer. */
  async generate(request: GenerationRequest, signal?: AbortSignal): Promise<Answer> {
    const opened = this.open(request, { maxDelayMs: WHOLE_ANSWER_DELAY_MS, signal });
    for await (const _ of opened);
    return opened.result;
  }

  /** Cancels what is open, unless it is to outlive the session, and ends the stream. */
  async close(): Promise<void> {
    this.#closed.abort();
    for (const lane of this.#reopening) {
      if (!lane.isDetached) lane.cancel();
      lane.breakOff(this.#ended());
    }
    for (const link of this.#reading.keys()) {
      for (const lane of link.lanes.values()) if (!lane.isDetached) lane.cancel();
      link.finish();
    }
    const ended = Promise.all(this.#reading.values());
    const grace = new AbortController();
    await Promise.race([ended, pause(CLOSE_GRACE_MS, grace.signal)]);
    grace.abort();
    for (const link of this.#reading.keys()) link.cancel();
    await ended;
  }

  #begin(
    request: Generation | AttachRequest,
    options: OpenOptions,
    tokenOffsets: readonly number[] = [],
  ): SessionGeneration {
    options.signal?.throwIfAborted();
    if (this.#closed.signal.aborted) throw this.#ended();
    const stream = toStream(options);
    const credit = Credit.of(options.creditTokens, options.creditMessages);
    // A session may live for days: a generation that nobody traces has a trace of its own.
    const trace = Trace.known() ?? this.#trace ?? Trace.fresh();
    const generation = isMessage(request, GenerationSchema) ? request : undefined;
    const progress = new Progress(trace, generation, stream, tokenOffsets);
    const attempts = new Attempts(this.#retry, undefined);
    const course = new Course(request, stream, progress, attempts, this.#requestBytes);
    const lane = new Lane(course, credit, trace);
    this.#submit(lane);
    return new SessionGeneration(lane, options.signal);
  }

  #submit(lane: Lane): void {
    lane.openOn(this.#link ?? this.#connect());
  }

  #connect(): Link {
    const link = new Link(this.#frontends.pick(), this.#trace ?? Trace.fresh());
    this.#link = link;
    this.#reading.set(link, this.#read(link));
    return link;
  }

  async #read(link: Link): Promise<void> {
    const error = await link.read((event) => this.#take(link, event));
    this.#reading.delete(link);
    this.#leave(link);
    // A stream that ends as it was asked to says nothing bad of its frontend.
    const elsewhere = error !== undefined && this.#frontends.leave(link.frontend, error);
    for (const lane of link.brokenOff()) this.#recover(lane, error ?? this.#ended(), elsewhere);
  }

  #take(link: Link, { id, event }: SessionEvent): void {
    const lane = link.lanes.get(id);
    if (lane === undefined) {
      if (event.case === "draining") {
        const details = { reason: "DRAINING" };
        const error = new TokenwireError("UNAVAILABLE", "the frontend drains", details);
        this.#frontends.leave(link.frontend, error);
      }
      if (event.case === "draining" || event.case === "move") this.#leave(link);
      return;
    }
    const error = lane.receive(event);
    if (event.case === "accepted") this.#frontends.keep(link.frontend);
    if (error === undefined) return;
    const elsewhere = this.#frontends.leave(link.frontend, error);
    if (elsewhere || error.reason === "DRAINING") this.#leave(link);
    this.#recover(lane, error, elsewhere);
  }

  /** Lets what is opened go to another stream; what is open on this one goes on there. */
  #leave(link: Link): void {
    if (this.#link === link) this.#link = undefined;
    link.leave();
  }

  /** Opens a generation again for what has not come of it, or lets it end. */
  #recover(lane: Lane, error: TokenwireError, elsewhere: boolean): void {
    if (this.#closed.signal.aborted) {
      lane.breakOff(this.#ended());
      return;
    }
    const delayMs = lane.recover(error, elsewhere);
    if (delayMs !== undefined) void this.#reopen(lane, delayMs);
  }

  async #reopen(lane: Lane, delayMs: number): Promise<void> {
    this.#reopening.add(lane);
    await pause(delayMs, this.#closed.signal);
    this.#reopening.delete(lane);
    if (lane.ended || this.#closed.signal.aborted) return;
    try {
      this.#submit(lane);
    } catch (error) {
      lane.breakOff(error); // such as that of a function that returns no API key
    }
  }

  #ended(): TokenwireError {
    return new TokenwireError("UNAVAILABLE", "the session has ended");
  }
}

/**
 * The deltas of one of a session's generations, in order.
 *
 * Leaving its `for await` loop, or `cancel`, stops the engine; with `onDisconnect: "detach"` only
 * `cancel` does.
 */
export class SessionGeneration extends StreamedGeneration {
  readonly #lane: Lane;
  readonly #signal: AbortSignal | undefined;
  readonly #deltas = this.#read();
  readonly #abort = () => this.#lane.cancel();

  constructor(lane: Lane, signal: AbortSignal | undefined) {
    super(lane.progress);
    this.#lane = lane;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#abort);
  }

  [Symbol.asyncIterator](): AsyncGenerator<Delta, void, undefined> {
    return this.#deltas;
  }

  /**
   * Allows so many more tokens or deltas, of a generation that was opened with credit. Throws for an
   * amount that is not from 1 to 2^32 - 1, and where it was opened without.
   */
  grant(amount: number): void {
    this.#lane.grant(amount);
  }

  /** Stops the generation, and returns when the server has; `result` then tells what had come. */
  async cancel(): Promise<void> {
    this.#lane.cancel();
    while (!this.#lane.ended) await this.#lane.news();
  }

  async *#read(): AsyncGenerator<Delta, void, undefined> {
    const lane = this.#lane;
    try {
      for (;;) {
        if (this.#signal?.aborted && lane.progress.cancelled) throw this.#signal.reason;
        const delta = lane.deltas.shift();
        if (delta !== undefined) yield delta;
        else if (lane.progress.error !== undefined) throw lane.progress.error;
        else if (lane.ended) return;
        else await lane.news();
      }
    } finally {
      this.#signal?.removeEventListener("abort", this.#abort);
      lane.letGo();
    }
  }
}
