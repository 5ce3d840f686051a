/** A frontend that does what a test tells it, on a real socket. */

import { once } from "node:events";
import type { TestContext } from "node:test";

import {
  create,
  type DescMessage,
  type DescMethod,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";

import { codec } from "../src/frontend.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "../src/gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "../src/gen/google/rpc/status_pb.js";
import * as pb from "../src/proto.js";

export const TRACE_ID = "ab".repeat(16);

type StreamEvent = NonNullable<MessageInitShape<typeof pb.StreamGenerateResponseSchema>["event"]>;
export type StreamCall = grpc.ServerWritableStream<
  pb.StreamGenerateRequest,
  pb.StreamGenerateResponse
>;
export type AttachCall = grpc.ServerWritableStream<pb.AttachRequest, pb.AttachResponse>;
export type SessionCall = grpc.ServerDuplexStream<pb.SessionRequest, pb.SessionResponse>;

export interface Handlers {
  listWorkers?: grpc.handleUnaryCall<pb.ListWorkersRequest, pb.ListWorkersResponse>;
  streamGenerate?: (call: StreamCall) => void;
  attach?: (call: AttachCall) => void;
  session?: (call: SessionCall) => void;
}

/** Serves until the test ends, or `kill`. */
export class ScriptedFrontend {
  readonly target: string;
  readonly #server: grpc.Server;

  private constructor(server: grpc.Server, port: number) {
    this.#server = server;
    this.target = `127.0.0.1:${port}`;
  }

  static async start(
    test: TestContext,
    handlers: Handlers,
    credentials = grpc.ServerCredentials.createInsecure(),
  ): Promise<ScriptedFrontend> {
    const server = new grpc.Server();
    for (const { methods } of [pb.GenerationService, pb.ModelService]) {
      const named = methods.map((method) => [method.localName, definitionOf(method)] as const);
      server.addService(Object.fromEntries(named), { ...handlers });
    }
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync("127.0.0.1:0", credentials, (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    const frontend = new ScriptedFrontend(server, port);
    test.after(() => frontend.kill());
    return frontend;
  }

  /** Ends all connections, as the death of the process does. */
  kill(): void {
    this.#server.forceShutdown();
  }
}

function definitionOf(method: DescMethod) {
  const [path, requestSerialize] = codec(method);
  const [, , requestDeserialize] = codec({ ...method, output: method.input });
  const [, responseSerialize, responseDeserialize] = codec({ ...method, input: method.output });
  return {
    path,
    requestStream: method.methodKind === "bidi_streaming",
    responseStream: method.methodKind !== "unary",
    requestSerialize,
    requestDeserialize,
    responseSerialize,
    responseDeserialize,
  };
}

/** Events of a generation, for a stream or a session. */
export const accepted = (requestId = "r-1", more: { resumeToken?: string } = {}): StreamEvent => ({
  case: "accepted",
  value: { requestId, promptTokenCount: 3, traceId: TRACE_ID, ...more },
});

export const delta = (
  text: string,
  tokenIds: number[],
  tokenOffset: number,
  more: MessageInitShape<typeof pb.DeltaSchema> = {},
): StreamEvent => ({ case: "delta", value: { text, tokenIds, tokenOffset, ...more } as pb.Delta });

export const END = { end: { reason: pb.FinishReason.STOP } } as const;
export const COMPLETED: StreamEvent = {
  case: "completed",
  value: { usage: { promptTokens: 3, completionTokens: 2 } },
};

/** Sends events of a stream. */
export function send(call: StreamCall | AttachCall, ...events: StreamEvent[]): void {
  const write = call.write.bind(call) as (response: object) => void;
  const isAttached = call.request.$typeName === pb.AttachRequestSchema.typeName;
  const schema = isAttached ? pb.AttachResponseSchema : pb.StreamGenerateResponseSchema;
  for (const event of events) write(create(schema, { event }));
}

/** Sends events of one generation of a session. */
export function sendIn(call: SessionCall, id: number, ...events: StreamEvent[]): void {
  const made = events.map((event) => ({ id, event }) as pb.SessionEvent);
  call.write(create(pb.SessionResponseSchema, { events: made }));
}

/** What an error of a service says. */
export interface Said {
  readonly reason?: string;
  readonly retryMs?: number;
  readonly fields?: readonly string[];
}

/** Returns a status with details. */
export function status(code: grpc.status, message: string, said: Said = {}): Status {
  const { reason = "", retryMs, fields } = said;
  const details = [pack(ErrorInfoSchema, { reason, domain: "tokenwire" })];
  if (retryMs !== undefined) {
    const nanos = (retryMs % 1000) * 1e6;
    const retryDelay = { seconds: BigInt(Math.trunc(retryMs / 1000)), nanos };
    details.push(pack(RetryInfoSchema, { retryDelay }));
  }
  if (fields !== undefined) {
    const fieldViolations = fields.map((field) => ({ field, description: "is wrong" }));
    details.push(pack(BadRequestSchema, { fieldViolations }));
  }
  return create(StatusSchema, { code, message, details });
}

/** Ends a call with what a service says. */
export function refuse(call: StreamCall | AttachCall, code: grpc.status, said: Said): void {
  const metadata = new grpc.Metadata();
  const packed = toBinary(StatusSchema, status(code, "refused", said));
  metadata.set("grpc-status-details-bin", Buffer.from(packed));
  call.emit("error", { code, details: "refused", metadata });
}

/** Ends a call as a connection that breaks does: without details. */
export function breakOff(call: StreamCall | AttachCall | SessionCall): void {
  call.emit("error", { code: grpc.status.UNAVAILABLE, details: "broken" });
}

function pack<Desc extends DescMessage>(schema: Desc, init: MessageInitShape<Desc>) {
  return anyPack(schema, create(schema, init));
}

/** Commands of a session, as they come. */
export class Commands {
  readonly #came: pb.SessionRequest[] = [];
  readonly #call: SessionCall;

  constructor(call: SessionCall) {
    this.#call = call;
    call.on("data", (command: pb.SessionRequest) => {
      this.#came.push(command);
      call.emit("came");
    });
  }

  /** Returns the next command that has come, or waits for it. */
  async next(): Promise<pb.SessionRequest> {
    while (this.#came.length === 0) await once(this.#call, "came");
    return this.#came.shift() as pb.SessionRequest;
  }

  /** Returns the next command, which opens a generation. */
  async opening(): Promise<pb.Open> {
    const { command } = await this.next();
    if (command.case !== "open") throw new Error(`${command.case} in place of an opening`);
    return command.value;
  }
}

/** A promise that a test fulfils. */
export interface Gate<Value> {
  readonly promise: Promise<Value>;
  open(value: Value): void;
}

export function gate<Value = void>(): Gate<Value> {
  let open!: (value: Value) => void;
  const promise = new Promise<Value>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

/** Lets what has come in be taken. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
