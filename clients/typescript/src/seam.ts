/**
 * Where a sequence's output goes on in another stream: nothing comes twice, and nothing is missing.
 *
 * The other frontend begins after the ids that it was given, with the text that is certain after
 * them. So the offsets most often meet exactly. What comes again is dropped if it is the same;
 * anything else is a fault that must not go unseen.
 */

import type { Delta } from "./gen/tokenwire/frontend/v1/generation_pb.js";

/** What is wrong with the place of a delta. */
export class GapError extends Error {}

/** What came of one run of text. */
export interface Run {
  readonly came: string;
  /** Where its next byte goes; undefined where that is not known. */
  readonly end: number | undefined;
}

/** What came of a sequence before the seam. */
export interface Before {
  readonly text: Run;
  readonly reasoning: Run;
  /** Of each call's arguments, by the call's index. */
  readonly arguments: ReadonlyMap<number, Run>;
  /** The text comes again from its beginning, an echoed prompt included. */
  readonly isRepeated: boolean;
  /** The arguments of a call of which nothing came. */
  readonly newCall: Run;
}

/** The places of one sequence's text, reasoning and calls. */
export class Seam {
  readonly #newCall: Run;
  readonly #text: Place;
  readonly #reasoning: Place;
  readonly #calls = new Map<number, Place>();

  constructor(before: Before) {
    this.#newCall = before.newCall;
    this.#text = new Place("text", before.text, before.isRepeated);
    this.#reasoning = new Place("reasoning", before.reasoning);
    for (const [index, run] of before.arguments) this.#addCall(index, run);
  }

  /** Drops from a delta what came before; throws GapError where something is missing before it. */
  trim(delta: Delta): void {
    if (delta.text) [delta.text, delta.textOffset] = this.#text.fit(delta.text, delta.textOffset);
    if (delta.reasoning) {
      [delta.reasoning, delta.reasoningOffset] = this.#reasoning.fit(
        delta.reasoning,
        delta.reasoningOffset,
      );
    }
    for (const call of delta.toolCalls) {
      const known = this.#calls.get(call.index);
      if (known && call.id) throw new GapError(`tool call ${call.index} began again`);
      const place = known ?? this.#addCall(call.index, this.#newCall);
      if (call.arguments) {
        [call.arguments, call.argumentsOffset] = place.fit(call.arguments, call.argumentsOffset);
      }
    }
  }

  #addCall(index: number, run: Run): Place {
    const place = new Place(`tool call ${index}`, run);
    this.#calls.set(index, place);
    return place;
  }
}

const NOTHING = Buffer.alloc(0);

/** How far one run of text has come, in UTF-8 bytes. */
class Place {
  readonly #name: string;
  /** What came, in pieces: it is joined only where something comes again. */
  #came: Buffer[];
  /** What is still to come again. */
  #again: Buffer;
  /** Undefined: the next piece's own. */
  #offset: number | undefined;

  constructor(name: string, { came, end }: Run, isRepeated = false) {
    this.#name = name;
    const bytes = Buffer.from(came);
    this.#came = [bytes];
    this.#again = isRepeated ? bytes : NOTHING;
    this.#offset = this.#again.length === 0 ? end : undefined;
  }

  /** Returns what is new of a piece, and its offset; throws as `Seam.trim`. */
  fit(text: string, at: bigint): [string, bigint] {
    const raw = Buffer.from(text);
    const offset = Number(at);
    if (this.#again.length > 0) {
      const again = this.#again.subarray(0, raw.length);
      this.#again = this.#again.subarray(raw.length);
      const fresh = this.#after(again, raw);
      this.#came.push(fresh);
      return [fresh.toString(), at];
    }
    const began = this.#offset ?? offset;
    const known = began - offset;
    if (known < 0) {
      throw new GapError(`${this.#name} went on at byte ${offset} after ${began} bytes`);
    }
    const again = known === 0 ? NOTHING : this.#last(known).subarray(0, raw.length);
    const fresh = this.#after(again, raw);
    this.#came.push(fresh);
    this.#offset = began + fresh.length;
    return [fresh.toString(), BigInt(began)];
  }

  #last(count: number): Buffer {
    const whole = Buffer.concat(this.#came);
    this.#came = [whole];
    return whole.subarray(-count);
  }

  #after(again: Buffer, raw: Buffer): Buffer {
    if (!raw.subarray(0, again.length).equals(again)) {
      throw new GapError(`${this.#name} that came again is not the same`);
    }
    return raw.subarray(again.length);
  }
}
