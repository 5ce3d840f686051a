/** One generation as it comes: what `stream` and `attach` of the client return. */

import { create, isMessage } from "@bufbuild/protobuf";

import type { Course } from "./course.js";
import { fromFailure, type TokenwireError } from "./errors.js";
import type { Frontend, ServerStream } from "./frontend.js";
import type { Frontends } from "./frontends.js";
import {
  type AttachResponse,
  GenerationSchema,
  GenerationService,
  StreamGenerateRequestSchema,
  type StreamGenerateResponse,
} from "./gen/tokenwire/frontend/v1/generation_pb.js";
import { pause } from "./pause.js";
import { StreamedGeneration } from "./progress.js";
import type { Trace } from "./trace.js";
import type { Delta } from "./types.js";

type Response = StreamGenerateResponse | AttachResponse;

/**
 * The deltas of one generation, in order.
 *
 * Leaving its `for await` loop, or `cancel`, stops the engine; a generation with
 * `onDisconnect: "detach"` goes on.
 */
export class GenerationStream extends StreamedGeneration {
  readonly #course: Course;
  readonly #frontends: Frontends;
  readonly #trace: Trace;
  readonly #signal: AbortSignal | undefined;
  readonly #stopped = new AbortController();
  readonly #deltas = this.#read();
  readonly #abort = () => this.cancel();
  #frontend!: Frontend;
  #call!: ServerStream<Response>;
  #responses!: AsyncIterator<Response>;

  constructor(course: Course, frontends: Frontends, trace: Trace, signal: AbortSignal | undefined) {
    super(course.progress);
    this.#course = course;
    this.#frontends = frontends;
    this.#trace = trace;
    this.#signal = signal;
    signal?.throwIfAborted();
    this.#open();
    signal?.addEventListener("abort", this.#abort);
  }

  [Symbol.asyncIterator](): AsyncGenerator<Delta, void, undefined> {
    return this.#deltas;
  }

  /** Stops the generation: reading ends, and `result` tells what had come. */
  cancel(): void {
    if (this.progress.ended) return;
    this.progress.cancelled = this.progress.ended = true;
    this.#stopped.abort();
    this.#call.cancel();
    this.#signal?.removeEventListener("abort", this.#abort);
  }

  async *#read(): AsyncGenerator<Delta, void, undefined> {
    const { progress } = this;
    try {
      while (!progress.ended) {
        const delta = await this.#next();
        if (delta !== undefined) yield delta;
      }
      if (progress.cancelled) this.#signal?.throwIfAborted();
      while (progress.unsaid.length > 0) yield progress.unsaid.shift() as Delta;
    } finally {
      this.cancel();
      this.#signal?.removeEventListener("abort", this.#abort);
    }
  }

  #open(): void {
    const request = this.#course.nextRequest();
    const settings = { trace: this.#trace, timeoutMs: this.#course.attempts.remainingMs() };
    const { attach, streamGenerate } = GenerationService.method;
    this.#frontend = this.#frontends.pick();
    if (isMessage(request, GenerationSchema)) {
      const message = { generation: request, stream: this.#course.stream };
      const opening = create(StreamGenerateRequestSchema, message);
      this.#call = this.#frontend.serverStream(streamGenerate, opening, settings);
    } else {
      this.#call = this.#frontend.serverStream(attach, request, settings);
    }
    this.#responses = this.#call[Symbol.asyncIterator]();
  }

  /** Takes what the stream brings next, and returns it if it is a delta. */
  async #next(): Promise<Delta | undefined> {
    const { progress } = this;
    let read: IteratorResult<Response>;
    try {
      read = await this.#responses.next();
    } catch (failure) {
      if (!progress.cancelled) await this.#recover(fromFailure(failure, progress.traceId));
      return undefined;
    }
    if (read.done === true) {
      const error = progress.close();
      if (error !== undefined) await this.#recover(error);
      return undefined;
    }
    try {
      const delta = progress.take(read.value.event);
      if (delta === undefined) {
        this.#frontends.keep(this.#frontend);
        this.#course.hear();
      }
      return delta;
    } catch (error) {
      this.#call.cancel();
      throw error;
    }
  }

  /** Opens another stream for what has not come yet; throws where that does not help. */
  async #recover(error: TokenwireError): Promise<void> {
    const elsewhere = this.#frontends.leave(this.#frontend, error);
    const delayMs = this.#course.recover(error, elsewhere);
    if (delayMs === undefined) return;
    await pause(delayMs, this.#stopped.signal);
    if (!this.progress.cancelled) this.#open();
  }
}
