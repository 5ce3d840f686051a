/** When a failed call is made again, and how long to wait before. */

import type { TokenwireError } from "./errors.js";

/**
 * How often a call is made again, and how long to wait before.
 *
 * A call is repeated when the server could not be reached or takes no requests now, or when it is
 * overloaded, or a conversation has yet to end its turn, and it says when to come back. A generation
 * that had begun is not repeated but continued, at another frontend where there is one: nothing that
 * was received comes again.
 */
export interface RetryPolicy {
  /** Attempts in all; 1 never repeats a call. Default 6, which rides out some four seconds. */
  readonly attempts?: number;
  /**
   * Attempts to continue a generation that had begun, over all its time; 0 never does. Default 10,
   * which rides out half a minute.
   */
  readonly continuations?: number;
  /** Before the second attempt; a random half of it is left out, so that clients spread. Default 200. */
  readonly firstDelayMs?: number;
  /** Each further delay is so many times the one before. Default 2. */
  readonly growth?: number;
  /**
   * Delays grow to this; if the server asks for a longer wait, the error is thrown at once.
   * Default 10,000.
   */
  readonly longestDelayMs?: number;
}

const DEFAULTS: Required<RetryPolicy> = {
  attempts: 6,
  continuations: 10,
  firstDelayMs: 200,
  growth: 2,
  longestDelayMs: 10_000,
};

/** Where time and chance come from; tests set their own. */
export interface Chance {
  /** Milliseconds of a clock that never goes back. */
  now(): number;
  /** From 0 to 1. */
  random(): number;
}

export const CHANCE: Chance = { now: () => performance.now(), random: Math.random };

/** The attempts of one call: what is left of its time, and whether to go on after an error. */
export class Attempts {
  /** Whether it is a generation that was accepted. */
  hasBegun = false;
  readonly #policy: Required<RetryPolicy>;
  readonly #deadline: number;
  readonly #chance: Chance;
  /** Failures in a row. */
  #failures = 0;
  #continuations = 0;

  constructor(policy: RetryPolicy, timeoutMs: number | undefined, chance: Chance = CHANCE) {
    this.#policy = { ...DEFAULTS, ...policy };
    this.#chance = chance;
    this.#deadline = timeoutMs === undefined ? Infinity : chance.now() + timeoutMs;
  }

  /** Returns the time that the next attempt may take; Infinity means any. */
  remainingMs(): number {
    return Math.max(this.#deadline - this.#chance.now(), 0);
  }

  /**
   * Returns how long to wait before the next attempt, or undefined if the error is the answer.
   *
   * @param elsewhere - The next goes to another frontend, of which nothing bad is known.
   * @param heard - The last attempt was a stream that had been accepted.
   */
  delayMs(error: TokenwireError, elsewhere: boolean, heard = false): number | undefined {
    this.#failures += 1;
    const policy = this.#policy;
    if (this.hasBegun) this.#continuations += 1;
    const isExhausted = this.hasBegun
      ? this.#continuations > policy.continuations
      : this.#failures >= policy.attempts;
    if (isExhausted || !isRetryable(error, heard)) return undefined;
    const asked = error.retryAfterMs ?? 0;
    if (asked > policy.longestDelayMs && !elsewhere) return undefined;
    const jitter = this.#chance.random();
    const grown = policy.firstDelayMs * policy.growth ** (this.#failures - 1);
    const delay = elsewhere
      ? // A part of the shortest delay, so that what one frontend had does not come at once.
        policy.firstDelayMs * jitter
      : asked + (Math.min(grown, policy.longestDelayMs) * (1 + jitter)) / 2;
    return delay < this.remainingMs() ? delay : undefined;
  }

  /** Notes that a generation was accepted: from now on it is continued. */
  begin(): void {
    this.hasBegun = true;
    this.#failures = 0;
  }
}

/** Whether another attempt may succeed; `heard`: the failed one had been accepted. */
export function isRetryable(error: TokenwireError, heard: boolean): boolean {
  if (error.code === "UNAVAILABLE" || error.isBreak) return true;
  // RESOURCE_EXHAUSTED without a RetryInfo is no overload: gRPC says it of too large a message.
  // After the acceptance it is a bound that this generation has met. ABORTED with one is a
  // conversation whose turn before is about to end.
  const mayPass = error.code === "RESOURCE_EXHAUSTED" || error.code === "ABORTED";
  return mayPass && error.retryAfterMs !== undefined && !heard;
}
