/** What a generation brings. Times are in milliseconds. */

import type { ChatMessage, ToolCall } from "./chat.js";
import { toMs } from "./duration.js";
import * as pb from "./gen/tokenwire/frontend/v1/generation_pb.js";

/** Why a sequence ended; `unknown` is one that this client is too old for. */
export type FinishReason =
  "stop" | "length" | "time_budget" | "cancelled" | "tool_calls" | "interrupted" | "unknown";

/** The request was valid and a worker took it. */
export interface Accepted {
  readonly requestId: string;
  readonly traceId: string;
  readonly promptTokens: number;
  /** Names the generation to `attach` and `cancelGeneration`; where it outlives its call. */
  readonly resumeToken: string | undefined;
  /** How long it is kept without a caller. */
  readonly detachTtlMs: number | undefined;
  /** The idempotency key was in use: this is the generation that runs or is kept under it. */
  readonly attached: boolean;
  readonly conversation: ConversationPrompt | undefined;
}

/** How the prompt of a conversation's turn was made. */
export interface ConversationPrompt {
  /** Messages that the frontend held. */
  readonly messages: number;
  readonly keptTokens: number;
  readonly encodedTokens: number;
}

/** What is new of one sequence; never cumulative. */
export interface Delta {
  /** Which sequence, from 0. */
  readonly sequence: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** Ids of the sequence before this delta's. */
  readonly tokenOffset: number;
  /** UTF-8 bytes of the sequence's text before this delta's. */
  readonly textOffset: number;
  readonly reasoning: string;
  readonly toolCalls: readonly ToolCallDelta[];
  readonly logprobs: readonly TokenLogprob[];
  /** In the sequence's last delta. */
  readonly finishReason: FinishReason | undefined;
  /** The stop string or the stop token's id that ended it. */
  readonly stopMatch: string | number | undefined;
}

/** What is new of one tool call. */
export interface ToolCallDelta {
  /** Which call of the sequence, from 0. */
  readonly index: number;
  /** In the call's first delta, as is `name`. */
  readonly id: string;
  readonly name: string;
  /** The next piece of the arguments' JSON text. */
  readonly arguments: string;
}

/** Log probability of one token. */
export interface TokenLogprob {
  readonly tokenId: number;
  readonly logprob: number;
  /** Of one token alone they need not be UTF-8. */
  readonly bytes: Uint8Array;
  /** Likeliest first. */
  readonly alternatives: readonly Omit<TokenLogprob, "alternatives">[];
}

/** One sequence, as far as it has come. */
export interface SequenceResult {
  readonly text: string;
  readonly reasoning: string;
  readonly toolCalls: readonly ToolCall[];
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly TokenLogprob[];
  readonly finishReason: FinishReason;
  readonly stopMatch: string | number | undefined;
  /** It as the assistant's turn, to go on with in a chat. */
  readonly message: ChatMessage;
}

/** A whole answer: that of the first sequence, all sequences, and the figures. */
export interface Answer extends SequenceResult {
  readonly requestId: string;
  readonly traceId: string;
  readonly sequences: readonly SequenceResult[];
  readonly usage: Usage;
  readonly timings: Timings;
  readonly promptLogprobs: readonly TokenLogprob[];
  readonly conversation: ConversationPrompt | undefined;
  /** Times that the client continued it on another stream. */
  readonly continued: number;
  /** The workers that had a part in it; empty where one did all. */
  readonly attempts: readonly Attempt[];
}

/** Tokens counted. */
export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Undefined: the engine does not tell. */
  readonly cachedPromptTokens: number | undefined;
}

/** Where the time went, in milliseconds from the frontend's receipt. */
export interface Timings {
  readonly timeToFirstTokenMs: number | undefined;
  readonly timePerOutputTokenMs: number | undefined;
  readonly totalMs: number | undefined;
  readonly stages: readonly Stage[];
  readonly worker: string;
}

/** One stage of a request. */
export interface Stage {
  readonly service: string;
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
}

/** One worker's part in a generation. */
export interface Attempt {
  readonly worker: string;
  readonly sequence: number;
  readonly tokenOffset: number;
  readonly mode: "new" | "carried" | "replayed" | "prefill" | "fetched" | "unknown";
  /** Empty: the sequence ended there. */
  readonly leftBecause: string;
}

export const NO_TIMINGS: Timings = {
  timeToFirstTokenMs: undefined,
  timePerOutputTokenMs: undefined,
  totalMs: undefined,
  stages: [],
  worker: "",
};

const FINISH_REASONS: Readonly<Record<number, FinishReason>> = {
  [pb.FinishReason.STOP]: "stop",
  [pb.FinishReason.LENGTH]: "length",
  [pb.FinishReason.TIME_BUDGET]: "time_budget",
  [pb.FinishReason.CANCELLED]: "cancelled",
  [pb.FinishReason.TOOL_CALLS]: "tool_calls",
  [pb.FinishReason.INTERRUPTED]: "interrupted",
};

const MODES: Readonly<Record<number, Attempt["mode"]>> = {
  [pb.AttemptMode.NEW]: "new",
  [pb.AttemptMode.CARRIED]: "carried",
  [pb.AttemptMode.REPLAYED]: "replayed",
  [pb.AttemptMode.PREFILL]: "prefill",
  [pb.AttemptMode.FETCHED]: "fetched",
};

export function toAccepted(message: pb.Accepted): Accepted {
  const { requestId, traceId, attached, conversation } = message;
  return {
    requestId,
    traceId,
    promptTokens: message.promptTokenCount,
    resumeToken: message.resumeToken || undefined,
    detachTtlMs: toMs(message.detachTtl),
    attached,
    conversation: conversation && {
      messages: conversation.messages,
      keptTokens: conversation.keptTokens,
      encodedTokens: conversation.encodedTokens,
    },
  };
}

export function toDelta(message: pb.Delta): Delta {
  const { end } = message;
  return {
    sequence: message.sequence,
    text: message.text,
    tokenIds: message.tokenIds,
    tokenOffset: message.tokenOffset,
    textOffset: Number(message.textOffset),
    reasoning: message.reasoning,
    toolCalls: message.toolCalls.map(({ index, id, name, arguments: text }) => ({
      index,
      id,
      name,
      arguments: text,
    })),
    logprobs: toLogprobs(message.logprobs),
    finishReason: end && (FINISH_REASONS[end.reason] ?? "unknown"),
    stopMatch: end?.matched.value,
  };
}

export function toLogprobs(messages: readonly pb.TokenLogprob[]): TokenLogprob[] {
  return messages.map((each) => ({
    ...toAlternative(each),
    alternatives: each.alternatives.map(toAlternative),
  }));
}

function toAlternative({ tokenId, logprob, token }: pb.Alternative | pb.TokenLogprob) {
  return { tokenId, logprob, bytes: token };
}

export function toUsage(message: pb.Usage | undefined): Usage {
  return {
    promptTokens: message?.promptTokens ?? 0,
    completionTokens: message?.completionTokens ?? 0,
    cachedPromptTokens: message?.cachedPromptTokens,
  };
}

export function toTimings(message: pb.Timings | undefined): Timings {
  if (message === undefined) return NO_TIMINGS;
  return {
    timeToFirstTokenMs: toMs(message.timeToFirstToken),
    timePerOutputTokenMs: toMs(message.timePerOutputToken),
    totalMs: toMs(message.total),
    stages: message.stages.map(({ service, name, start, duration }) => ({
      service,
      name,
      startMs: toMs(start) ?? 0,
      durationMs: toMs(duration) ?? 0,
    })),
    worker: message.worker,
  };
}

export function toAttempt(message: pb.Attempt): Attempt {
  const { worker, sequence, tokenOffset, leftBecause } = message;
  return { worker, sequence, tokenOffset, mode: MODES[message.mode] ?? "unknown", leftBecause };
}
