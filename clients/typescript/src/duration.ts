/** Milliseconds, and the contract's durations. */

import { create } from "@bufbuild/protobuf";
import { type Duration, DurationSchema } from "@bufbuild/protobuf/wkt";

const NS_PER_MS = 1e6;

/** Returns a duration in milliseconds, fractions included. */
export function toMs(duration: Duration | undefined): number | undefined {
  return duration && Number(duration.seconds) * 1e3 + duration.nanos / NS_PER_MS;
}

/** Returns milliseconds as a duration; throws RangeError, which names the field. */
export function fromMs(name: string, ms: number | undefined): Duration | undefined {
  if (ms === undefined) return undefined;
  if (!Number.isFinite(ms)) throw new RangeError(`${name}: ${ms} is not a time in milliseconds`);
  const seconds = Math.trunc(ms / 1e3);
  const nanos = Math.round((ms - seconds * 1e3) * NS_PER_MS);
  // Rounding may make a whole second of the rest.
  const carried = Math.trunc(nanos / 1e9);
  return create(DurationSchema, {
    seconds: BigInt(seconds + carried),
    nanos: nanos - carried * 1e9,
  });
}
