/** The client: connections to Tokenwire frontends. */

import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { ChannelOptions } from "@grpc/grpc-js";

import {
  type ApiKey,
  channelCredentials,
  channelOptions,
  checkApiKey,
  checkedTargets,
  REQUEST_BYTES,
  type Tls,
} from "./channel.js";
import { Course } from "./course.js";
import { fromFailure } from "./errors.js";
import { Frontend } from "./frontend.js";
import { Frontends } from "./frontends.js";
import { GenerationService } from "./gen/tokenwire/frontend/v1/generation_pb.js";
import {
  type DeltaOptions,
  encodedBytes,
  type GenerationRequest,
  toAttach,
  toGeneration,
  toStream,
  WHOLE_ANSWER_DELAY_MS,
} from "./options.js";
import { pause } from "./pause.js";
import { Progress } from "./progress.js";
import { Attempts, type RetryPolicy } from "./retry.js";
import { type AttachOptions, Session } from "./session.js";
import { GenerationStream } from "./stream.js";
import { Trace } from "./trace.js";
import type { Answer } from "./types.js";

/** What a client may be told. */
export interface ClientOptions {
  readonly tls?: Tls;
  /** An API key or a JWT, or what returns one before each call. */
  readonly apiKey?: ApiKey;
  /** Sends `apiKey` without TLS to other hosts too, where whoever is on the way can read it. */
  readonly apiKeyOverPlainText?: boolean;
  /** Time that each call may take, all its attempts together. Default: any. */
  readonly timeoutMs?: number;
  readonly retry?: RetryPolicy;
  /**
   * In which order several targets are gone to. `random`, the default, spreads many clients;
   * `listed` is the order in which they are given.
   */
  readonly targetOrder?: "random" | "listed";
  /** Largest request that the deployment takes. Default: 4 MiB. */
  readonly maxRequestBytes?: number;
  /** gRPC channel options, beside or instead of the client's own. */
  readonly channelOptions?: ChannelOptions;
}

/** What each call may be told. */
export interface CallOptions {
  /** Time that the call may take, all its attempts together. */
  readonly timeoutMs?: number | undefined;
  /** Cancels the call when it is aborted, which then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** W3C trace context. Default: the active OpenTelemetry span's, or a new one. */
  readonly traceparent?: string | undefined;
}

/**
 * Connections to Tokenwire frontends.
 *
 * Of several targets all calls go to one, until it can't be reached or says UNAVAILABLE; then to the
 * next. It connects with its first call.
 */
export class Client {
  readonly #frontends: Frontends;
  readonly #timeoutMs: number | undefined;
  readonly #retry: RetryPolicy;
  readonly #requestBytes: number;

  constructor(target: string | readonly string[], options: ClientOptions = {}) {
    const targets = checkedTargets(target);
    const { apiKey, tls } = options;
    if (apiKey !== undefined) {
      checkApiKey(apiKey, targets, tls !== undefined || options.apiKeyOverPlainText === true);
    }
    const credentials = channelCredentials(tls);
    const frontends = targets.map((each) => {
      const more = channelOptions(each, options.channelOptions ?? {});
      return new Frontend(each, credentials, more, apiKey);
    });
    if (options.targetOrder !== "listed") shuffle(frontends);
    this.#frontends = new Frontends(frontends as [Frontend, ...Frontend[]]);
    this.#timeoutMs = options.timeoutMs;
    this.#retry = options.retry ?? {};
    this.#requestBytes = options.maxRequestBytes ?? REQUEST_BYTES;
  }

  /**
   * Returns the whole answer. It is streamed in large parts, so that it is continued where its
   * frontend is lost.
   */
  async generate(request: GenerationRequest, options: CallOptions = {}): Promise<Answer> {
    const stream = this.stream(request, { ...options, maxDelayMs: WHOLE_ANSWER_DELAY_MS });
    for await (const _ of stream);
    return stream.result;
  }

  /**
   * Returns the answer as it comes. Where the stream breaks after it had begun, it is continued at
   * another frontend, or the same one.
   */
  stream(request: GenerationRequest, options: CallOptions & DeltaOptions = {}): GenerationStream {
    const generation = toGeneration(request, this.#requestBytes);
    const how = toStream(options);
    const trace = traceOf(options);
    const progress = new Progress(trace, generation, how);
    const attempts = this.#attempts(options);
    const course = new Course(generation, how, progress, attempts, this.#requestBytes);
    return new GenerationStream(course, this.#frontends, trace, options.signal);
  }

  /**
   * Returns what follows of a generation that outlives its call. What the caller has already is not
   * in `result`. Ending the stream leaves the generation alone.
   *
   * @param resumeToken - That of `accepted`.
   */
  attach(
    resumeToken: string,
    options: CallOptions & DeltaOptions & AttachOptions = {},
  ): GenerationStream {
    const { tokenOffsets = [] } = options;
    const request = toAttach(resumeToken, tokenOffsets, options);
    const trace = traceOf(options);
    const progress = new Progress(trace, undefined, request.stream, tokenOffsets);
    const attempts = this.#attempts(options);
    const course = new Course(request, request.stream, progress, attempts, this.#requestBytes);
    return new GenerationStream(course, this.#frontends, trace, options.signal);
  }

  /** Ends a generation that outlives its call; one that has ended already stays as it is. */
  async cancelGeneration(resumeToken: string, options: CallOptions = {}): Promise<void> {
    await this.call(GenerationService.method.cancelGeneration, { resumeToken }, options);
  }

  /** Returns a session: many generations on one stream, which is opened by the first of them. */
  session({ traceparent }: Pick<CallOptions, "traceparent"> = {}): Session {
    return new Session(this.#frontends, Trace.known(traceparent), this.#retry, this.#requestBytes);
  }

  /**
   * Calls any unary method of the contract, with retries and decoded errors:
   * `client.call(ModelService.method.listModels)`. The descriptors are those of
   * `@tokenwire/client/proto`.
   */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request?: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const { signal } = options;
    const message = create(method.input, request);
    encodedBytes(method.input, message);
    const [attempts, trace] = [this.#attempts(options), traceOf(options)];
    for (;;) {
      signal?.throwIfAborted();
      const frontend = this.#frontends.pick();
      const settings = { trace, timeoutMs: attempts.remainingMs() };
      try {
        const response = await frontend.unary(method, message, settings, signal);
        this.#frontends.keep(frontend);
        return response;
      } catch (failure) {
        signal?.throwIfAborted();
        const error = fromFailure(failure, trace.traceId);
        const elsewhere = this.#frontends.leave(frontend, error);
        const delayMs = attempts.delayMs(error, elsewhere);
        if (delayMs === undefined) throw error;
        await pause(delayMs, signal);
      }
    }
  }

  /** Closes the connections, once the calls that still run have ended. */
  close(): void {
    for (const each of this.#frontends.all) each.close();
  }

  #attempts({ timeoutMs = this.#timeoutMs }: CallOptions): Attempts {
    return new Attempts(this.#retry, timeoutMs);
  }
}

function traceOf({ traceparent }: CallOptions): Trace {
  return Trace.known(traceparent) ?? Trace.fresh();
}

function shuffle(items: unknown[]): void {
  for (let last = items.length - 1; last > 0; last -= 1) {
    const other = Math.floor(Math.random() * (last + 1));
    [items[last], items[other]] = [items[other], items[last]];
  }
}
