/** W3C trace context of calls: every request has a trace id that the caller can name. */

import { randomBytes } from "node:crypto";

import { isSpanContextValid, trace } from "@opentelemetry/api";

const FORM = /^[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Headers of a trace, as the contract's TraceContext has them too. */
export interface TraceHeaders {
  readonly traceparent: string;
  readonly tracestate?: string;
}

/** The trace of one call. */
export class Trace {
  readonly headers: TraceHeaders;
  readonly traceId: string;

  /** Throws TypeError where `traceparent` is malformed. */
  constructor(headers: TraceHeaders) {
    const match = FORM.exec(headers.traceparent);
    if (match?.[1] === undefined) {
      const form = "00-<32 hex digits>-<16 hex digits>-<2 hex digits>";
      throw new TypeError(`traceparent: ${headers.traceparent} is not of the form ${form}`);
    }
    this.headers = headers;
    this.traceId = match[1];
  }

  /** Returns the caller's trace: what it gave, or its active OpenTelemetry span; else undefined. */
  static known(traceparent?: string): Trace | undefined {
    if (traceparent !== undefined) return new Trace({ traceparent });
    const span = trace.getActiveSpan()?.spanContext();
    if (span === undefined || !isSpanContextValid(span)) return undefined;
    const flags = span.traceFlags.toString(16).padStart(2, "0");
    const tracestate = span.traceState?.serialize();
    return new Trace({
      traceparent: `00-${span.traceId}-${span.spanId}-${flags}`,
      ...(tracestate && { tracestate }),
    });
  }

  /** Returns a new trace. */
  static fresh(): Trace {
    const digits = randomBytes(24).toString("hex");
    // Sampled (01), because nobody upstream has decided otherwise: the services' own settings do.
    return new Trace({ traceparent: `00-${digits.slice(0, 32)}-${digits.slice(32)}-01` });
  }
}
