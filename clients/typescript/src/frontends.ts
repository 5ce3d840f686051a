/** The frontends that a client knows, and which of them a call goes to. */

import type { TokenwireError } from "./errors.js";
import type { Frontend } from "./frontend.js";
import { CHANCE, type Chance } from "./retry.js";

/** How long a frontend that failed is left alone: as long as a restart takes. */
const FIRST_REST_MS = 1_000;

/** Rests double to this, so that a frontend that was away for long is found again. */
const LONGEST_REST_MS = 30_000;

/** Failures beyond this make rests no longer; bounds the power. */
const MOST_FAILURES = 10;

interface Health {
  /** In a row. */
  failures: number;
  restsUntilMs: number;
}

/**
 * Several frontends, of which one gets all calls until it fails.
 *
 * One at a time, since what a frontend remembers, such as conversations and idempotency keys, helps
 * only there.
 */
export class Frontends {
  readonly all: readonly Frontend[];
  readonly #health = new Map<Frontend, Health>();
  readonly #chance: Chance;
  #current: Frontend;

  /** @param all - At least one, in the order in which they are gone to. */
  constructor(all: readonly [Frontend, ...Frontend[]], chance: Chance = CHANCE) {
    this.all = all;
    this.#current = all[0];
    this.#chance = chance;
  }

  /** Returns the frontend that the next call goes to. */
  pick(): Frontend {
    return this.#current;
  }

  /** Notes that a frontend answers. */
  keep(frontend: Frontend): void {
    this.#health.delete(frontend);
  }

  /**
   * Notes what a call of a frontend failed with. Where it says that the frontend takes no requests,
   * or broke off, the next call goes to another. Returns whether that is one of which nothing bad is
   * known.
   */
  leave(frontend: Frontend, error: TokenwireError): boolean {
    if (error.code !== "UNAVAILABLE" && !error.isBreak) return false;
    const now = this.#chance.now();
    const { failures, restsUntilMs } = this.#of(frontend);
    // Else it is one of the calls that failed together.
    if (restsUntilMs <= now) {
      const rest = Math.min(FIRST_REST_MS * 2 ** failures, LONGEST_REST_MS);
      this.#health.set(frontend, {
        failures: Math.min(failures + 1, MOST_FAILURES),
        restsUntilMs: now + (rest * (1 + this.#chance.random())) / 2,
      });
    }
    if (frontend === this.#current) this.#current = this.#nextAfter(frontend, now);
    return this.#of(this.#current).restsUntilMs <= now;
  }

  /** Returns the next that does not rest, or else the one that has rested most. */
  #nextAfter(frontend: Frontend, now: number): Frontend {
    const place = this.all.indexOf(frontend) + 1;
    const others = [...this.all.slice(place), ...this.all.slice(0, place)];
    const restMs = (each: Frontend) => Math.max(this.#of(each).restsUntilMs, now);
    return others.reduce((best, each) => (restMs(each) < restMs(best) ? each : best));
  }

  #of(frontend: Frontend): Health {
    return this.#health.get(frontend) ?? { failures: 0, restsUntilMs: 0 };
  }
}
