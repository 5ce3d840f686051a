/** What a call fails with: the service's `google.rpc` details, or gRPC's own words. */

import { fromBinary } from "@bufbuild/protobuf";
import { type Any, anyUnpack } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";

import { toMs } from "./duration.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "./gen/google/rpc/status_pb.js";

/** Name of a gRPC status code, such as `NOT_FOUND`. */
export type Code = keyof typeof grpc.status;

/** One field at fault. */
export interface FieldViolation {
  /** Path from the request's root, such as `generation.sampling.temperature`. */
  readonly field: string;
  /** What is wrong with it. */
  readonly description: string;
}

/** A bound that was met. */
export interface Quota {
  /** What is bounded. */
  readonly subject: string;
  /** The bound, with its number. */
  readonly description: string;
}

/** What an error says beside its message. */
interface ErrorDetails {
  reason?: string;
  traceId?: string;
  metadata?: Readonly<Record<string, string>>;
  violations?: readonly FieldViolation[];
  quotas?: readonly Quota[];
  retryAfterMs?: number | undefined;
  isBreak?: boolean;
}

/** A call failed. The message reads well alone; the properties are for programs. */
export class TokenwireError extends Error {
  override readonly name = "TokenwireError";
  /** The gRPC status. */
  readonly code: Code;
  /** Stable and in UPPER_SNAKE_CASE, such as `QUEUE_FULL`; the status where the server gave none. */
  readonly reason: string;
  /** By which the services' logs and traces name the request; 32 hex digits. */
  readonly traceId: string;
  /** What the server adds to the reason, such as the bounds that were passed. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The fields at fault. */
  readonly violations: readonly FieldViolation[];
  /** The bounds that were met. */
  readonly quotas: readonly Quota[];
  /** Milliseconds after which to try again, where the server says so. */
  readonly retryAfterMs: number | undefined;
  /** Whether the connection or the stream broke: no service has said anything of the request. */
  readonly isBreak: boolean;

  constructor(code: Code, message: string, details: ErrorDetails = {}) {
    super(message);
    this.code = code;
    this.reason = details.reason ?? code;
    this.traceId = details.traceId ?? "";
    this.metadata = details.metadata ?? {};
    this.violations = details.violations ?? [];
    this.quotas = details.quotas ?? [];
    this.retryAfterMs = details.retryAfterMs;
    this.isBreak = details.isBreak ?? false;
  }
}

const DETAILS_KEY = "grpc-status-details-bin";

/** What gRPC itself says of a connection or a stream that broke. */
const BREAKS: readonly number[] = [
  grpc.status.UNAVAILABLE,
  grpc.status.INTERNAL,
  grpc.status.CANCELLED,
  grpc.status.UNKNOWN,
];

/** Returns the error that a service described. */
export function fromStatus(status: Status, traceId: string): TokenwireError {
  const details: ErrorDetails = { traceId };
  for (const detail of status.details) readDetail(details, detail);
  return new TokenwireError(codeOf(status.code), status.message, details);
}

/** Returns what a failed call says. */
export function fromFailure(failure: unknown, traceId: string): TokenwireError {
  // What is not gRPC's own comes from the stream that it reads.
  if (!isServiceError(failure)) {
    return new TokenwireError("UNKNOWN", String(failure), { traceId, isBreak: true });
  }
  const [packed] = failure.metadata?.get(DETAILS_KEY) ?? [];
  // gRPC itself never sends details: without them the connection speaks, and not a service.
  if (packed instanceof Uint8Array) return fromStatus(fromBinary(StatusSchema, packed), traceId);
  const code = codeOf(failure.code);
  const isBreak = BREAKS.includes(failure.code);
  return new TokenwireError(code, failure.details || code, { traceId, isBreak });
}

function isServiceError(failure: unknown): failure is grpc.ServiceError {
  return failure instanceof Error && typeof (failure as grpc.ServiceError).code === "number";
}

function codeOf(code: number): Code {
  return (grpc.status[code] ?? "UNKNOWN") as Code;
}

function readDetail(details: ErrorDetails, any: Any): void {
  const info = anyUnpack(any, ErrorInfoSchema);
  if (info !== undefined) {
    details.reason = info.reason;
    details.metadata = info.metadata;
  }
  const retry = anyUnpack(any, RetryInfoSchema)?.retryDelay;
  if (retry !== undefined) details.retryAfterMs = toMs(retry);
  const fields = anyUnpack(any, BadRequestSchema)?.fieldViolations;
  if (fields !== undefined) {
    details.violations = fields.map(({ field, description }) => ({ field, description }));
  }
  const quotas = anyUnpack(any, QuotaFailureSchema)?.violations;
  if (quotas !== undefined) {
    details.quotas = quotas.map(({ subject, description }) => ({ subject, description }));
  }
}
