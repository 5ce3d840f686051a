/** A connection to one frontend: the contract's methods as calls of grpc-js. */

import {
  type DescMessage,
  type DescMethodBiDiStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";

import { type ApiKey, authorization } from "./channel.js";
import type { Trace } from "./trace.js";

/** A running call that brings messages. */
export type ServerStream<Response> = AsyncIterable<Response> & { cancel(): void };

/** A running call that takes and brings messages. */
export type DuplexStream<Request, Response> = ServerStream<Response> & {
  write(request: Request): unknown;
  end(): unknown;
};

/** What beside its request a call has. */
export interface CallSettings {
  readonly trace: Trace;
  /** Time until the gRPC deadline; Infinity: none. */
  readonly timeoutMs?: number;
}

/** A frontend; it is connected to with the first call. */
export class Frontend {
  readonly #client: grpc.Client;
  readonly #apiKey: ApiKey | undefined;

  constructor(
    target: string,
    credentials: grpc.ChannelCredentials,
    options: grpc.ChannelOptions,
    apiKey: ApiKey | undefined,
  ) {
    this.#client = new grpc.Client(target, credentials, options);
    this.#apiKey = apiKey;
  }

  /** Returns the response; throws gRPC's error. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    settings: CallSettings,
    signal: AbortSignal | undefined,
  ): Promise<MessageShape<O>> {
    return new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(
        ...codec(method),
        request,
        this.#metadata(settings),
        callOptions(settings),
        (error, response) => {
          signal?.removeEventListener("abort", cancel);
          if (response === undefined) reject(error);
          else resolve(response);
        },
      );
      const cancel = () => call.cancel();
      signal?.addEventListener("abort", cancel);
    });
  }

  /** Starts a call whose responses are read by iterating it. */
  serverStream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageShape<I>,
    settings: CallSettings,
  ): ServerStream<MessageShape<O>> {
    const call = this.#client.makeServerStreamRequest(
      ...codec(method),
      request,
      this.#metadata(settings),
      callOptions(settings),
    );
    return call.on("error", ignore);
  }

  /** Starts a call that is written to, and read by iterating it. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    settings: CallSettings,
  ): DuplexStream<MessageShape<I>, MessageShape<O>> {
    const call = this.#client.makeBidiStreamRequest(
      ...codec(method),
      this.#metadata(settings),
      callOptions(settings),
    );
    return call.on("error", ignore);
  }

  /** Closes the connection; calls that still run go on to their end. */
  close(): void {
    this.#client.close();
  }

  #metadata({ trace }: CallSettings): grpc.Metadata {
    const metadata = new grpc.Metadata();
    for (const [name, value] of Object.entries(trace.headers)) metadata.set(name, value);
    if (this.#apiKey !== undefined) metadata.set("authorization", authorization(this.#apiKey));
    return metadata;
  }
}

/** The error of a call that nobody reads any more would else end the process. */
function ignore(): void {}

function callOptions({ timeoutMs = Infinity }: CallSettings): grpc.CallOptions {
  return timeoutMs === Infinity ? {} : { deadline: Date.now() + timeoutMs };
}

/** What of a method's descriptor a call needs. */
interface Method<I extends DescMessage, O extends DescMessage> {
  readonly parent: { readonly typeName: string };
  readonly name: string;
  readonly input: I;
  readonly output: O;
}

type Codec<I extends DescMessage, O extends DescMessage> = [
  path: string,
  serialize: (request: MessageShape<I>) => Buffer,
  deserialize: (bytes: Buffer) => MessageShape<O>,
];

/** Returns a method's path, and how its messages become bytes. */
export function codec<I extends DescMessage, O extends DescMessage>(
  method: Method<I, O>,
): Codec<I, O> {
  return [
    `/${method.parent.typeName}/${method.name}`,
    (request) => {
      const { buffer, byteOffset, length } = toBinary(method.input, request);
      return Buffer.from(buffer, byteOffset, length);
    },
    (bytes) => fromBinary(method.output, bytes),
  ];
}
