import assert from "node:assert/strict";
import { test } from "node:test";

import { TokenwireError } from "../src/errors.js";
import { Attempts, type RetryPolicy } from "../src/retry.js";

const UNAVAILABLE = new TokenwireError("UNAVAILABLE", "gone");
const OVERLOADED = new TokenwireError("RESOURCE_EXHAUSTED", "full", { retryAfterMs: 3_000 });

/** Attempts whose clock stands still, with the longest delays that chance gives. */
function attempts(policy: RetryPolicy = {}, timeoutMs?: number): Attempts {
  return new Attempts(policy, timeoutMs, { now: () => 0, random: () => 1 });
}

test("delays double, to a bound, and end with the attempts", () => {
  const some = attempts({ attempts: 5, firstDelayMs: 100, longestDelayMs: 300 });
  const delays = Array.from({ length: 5 }, () => some.delayMs(UNAVAILABLE, false));
  assert.deepEqual(delays, [100, 200, 300, 300, undefined]);
});

test("what the server asks for comes on top, and is not waited for where it is too long", () => {
  assert.equal(attempts().delayMs(OVERLOADED, false), 3_200);
  assert.equal(attempts({ longestDelayMs: 2_999 }).delayMs(OVERLOADED, false), undefined);
  const busy = new TokenwireError("ABORTED", "the turn before runs", { retryAfterMs: 500 });
  assert.equal(attempts().delayMs(busy, false), 700);
  assert.equal(attempts().delayMs(new TokenwireError("ABORTED", "kills"), false), undefined);
});

test("a delay that the deadline does not leave is not begun", () => {
  assert.equal(attempts({}, 3_200).delayMs(OVERLOADED, false), undefined);
  assert.equal(attempts({}, 3_201).delayMs(OVERLOADED, false), 3_200);
});

test("an overload after the acceptance is the answer; a break is continued", () => {
  const begun = attempts({ attempts: 1, continuations: 2 });
  begun.begin();
  assert.equal(begun.delayMs(OVERLOADED, false, true), undefined);
  assert.equal(begun.delayMs(UNAVAILABLE, true, true), 200);
  assert.equal(begun.delayMs(UNAVAILABLE, true, true), undefined);
});
