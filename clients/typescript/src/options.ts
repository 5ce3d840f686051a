/**
 * What to generate, from plain objects to the contract's messages.
 *
 * Options have the names of the contract's fields, whose comments say what each does. Times are in
 * milliseconds. Whether a value is allowed is for the server to say.
 */

import {
  clone,
  create,
  type DescMessage,
  isMessage,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";

import {
  type ChatMessage,
  type Tool,
  type ToolChoice,
  toChatMessage,
  toJsonText,
  toTool,
  toToolChoice,
} from "./chat.js";
import { fromMs } from "./duration.js";
import { TokenwireError } from "./errors.js";
import * as generation from "./gen/tokenwire/frontend/v1/generation_pb.js";
import * as parts from "./gen/tokenwire/frontend/v1/options_pb.js";
import * as prompts from "./gen/tokenwire/frontend/v1/prompt_pb.js";

/** The fields of a message, all optional. */
type Fields<Message, Without extends string = never> = Partial<
  Omit<Message, "$typeName" | "$unknown" | Without>
>;

type Own = Pick<
  generation.Generation,
  "model" | "loraAdapter" | "cacheSalt" | "priority" | "requestId" | "idempotencyKey"
>;

type ChatFlags =
  "addGenerationPrompt" | "continueFinalMessage" | "parallelToolCalls" | "escapeControlTokens";

/** What to generate: a `prompt` or a `chat`, and how. */
export interface GenerationOptions
  extends
    Fields<Own>,
    Fields<parts.SamplingOptions, "seed" | "logitBias">,
    Fields<parts.StopConditions, "stop">,
    Fields<parts.OutputOptions>,
    Fields<prompts.Prompt, "content">,
    Partial<Pick<prompts.Chat, ChatFlags>> {
  /** A text, or token ids of the model's own vocabulary. */
  prompt?: string | readonly number[];
  chat?: readonly ChatMessage[];
  tools?: readonly Tool[];
  toolChoice?: ToolChoice;
  documents?: readonly { readonly title?: string; readonly text: string }[];
  /** Further variables for the chat template, by name. */
  templateArguments?: object | string;
  /** Makes sampling repeatable on the same engine; sequence i of several uses seed + i. */
  seed?: number | bigint;
  /** Added to the logits of single tokens, by token id. */
  logitBias?: Readonly<Record<number, number>>;
  /** Texts that end a sequence where they first appear; at most 16. */
  stop?: string | readonly string[];
  /** The output is an instance of this JSON Schema. At most one of this and the next four. */
  jsonSchema?: object | string;
  /** The output is a JSON object. */
  jsonObject?: boolean;
  /** The whole output matches this regular expression. */
  regex?: string;
  /** The output follows this EBNF grammar with a rule named `root`. */
  grammar?: string;
  /** The output is one of these texts. */
  choice?: readonly string[];
  /** Sequences to generate for the prompt; 1 to 32. */
  n?: number;
  /** The conversation whose next turn `chat` is, and how many messages the frontend holds of it. */
  conversation?: { readonly id: string; readonly messages: number };
  /** Time after which what exists is returned, with the finish reason `time_budget`. */
  timeBudgetMs?: number;
  /** What becomes of the generation when its call ends before it does. Default: `cancel`. */
  onDisconnect?: "cancel" | "detach";
  /** How long a detached generation is kept without a caller. Default: 60,000. */
  detachTtlMs?: number;
}

/** What to generate: options, or the contract's own message. */
export type GenerationRequest = GenerationOptions | generation.Generation;

/** How deltas come. */
export interface DeltaOptions {
  /** How long a delta may be held to send more tokens at once; at most 10,000. */
  readonly maxDelayMs?: number | undefined;
  /** Most tokens of one delta. */
  readonly maxDeltaTokens?: number | undefined;
  /** What deltas have. Without ids the generation can't be continued. Default: `text_and_ids`. */
  readonly content?: "text_and_ids" | "text" | "ids" | undefined;
}

const OWN = [
  "model",
  "loraAdapter",
  "cacheSalt",
  "priority",
  "requestId",
  "idempotencyKey",
] as const;

const SPECIAL = [
  ...["prompt", "chat", "tools", "toolChoice", "documents", "templateArguments", "jsonSchema"],
  ...["jsonObject", "regex", "grammar", "choice", "n", "conversation", "timeBudgetMs"],
  ...["onDisconnect", "detachTtlMs"],
];

const PARTS: readonly DescMessage[] = [
  ...[parts.SamplingOptionsSchema, parts.StopConditionsSchema, parts.OutputOptionsSchema],
  ...[prompts.PromptSchema, prompts.ChatSchema],
];

const KNOWN = new Set<string>([
  ...OWN,
  ...SPECIAL,
  ...PARTS.flatMap((each) => each.fields.map((field) => field.localName)),
]);

/**
 * How long deltas of an answer that nobody watches are held: few messages, and where its frontend is
 * lost at most this much is generated again.
 */
export const WHOLE_ANSWER_DELAY_MS = 1_000;

/** Of a message, for what stands around a request, such as a session's trace context. */
const AROUND_BYTES = 1024;

/**
 * Returns what to generate.
 *
 * Throws TypeError for an unknown option or not exactly one of `prompt` and `chat`, RangeError for a
 * value that its field can't hold, and TokenwireError for more than a message holds.
 */
export function toGeneration(
  request: GenerationRequest,
  limitBytes: number,
): generation.Generation {
  const message = isMessage(request, generation.GenerationSchema) ? request : build(request);
  return sized(message, "generation.prompt", limitBytes);
}

function build(options: GenerationOptions): generation.Generation {
  for (const name of Object.keys(options)) {
    if (!KNOWN.has(name)) throw new TypeError(`unknown option ${JSON.stringify(name)}`);
  }
  const { stop, seed, logitBias, n, timeBudgetMs, detachTtlMs, onDisconnect } = options;
  const given: Record<string, unknown> = {
    ...options,
    stop: typeof stop === "string" ? [stop] : stop,
    seed: seed === undefined ? undefined : BigInt(seed),
    logitBias: logitBias && toBiases(logitBias),
  };
  return create(generation.GenerationSchema, {
    ...Object.fromEntries(OWN.map((name) => [name, options[name]])),
    prompt: toPrompt(options, given),
    sampling: part(parts.SamplingOptionsSchema, given),
    stop: part(parts.StopConditionsSchema, given),
    output: part(parts.OutputOptionsSchema, given),
    guided: toGuided(options),
    sequenceCount: n,
    conversation: options.conversation,
    timeBudget: fromMs("timeBudgetMs", timeBudgetMs),
    detachTtl: fromMs("detachTtlMs", detachTtlMs),
    onDisconnect: onDisconnect && word("onDisconnect", ON_DISCONNECT, onDisconnect),
  });
}

/** Returns how deltas are put into messages; undefined where nothing is asked for. */
export function toStream(options: DeltaOptions): parts.StreamOptions | undefined {
  const message = part(parts.StreamOptionsSchema, {
    maxDelay: fromMs("maxDelayMs", options.maxDelayMs),
    maxTokens: options.maxDeltaTokens,
    content: options.content && word("content", CONTENT, options.content),
  });
  if (message !== undefined) encodedBytes(parts.StreamOptionsSchema, message);
  return message;
}

/** Returns the request for a generation that outlives its call, from a position on. */
export function toAttach(
  resumeToken: string,
  tokenOffsets: readonly number[],
  options: DeltaOptions,
): generation.AttachRequest {
  const init = { resumeToken, tokenOffsets: [...tokenOffsets], stream: toStream(options) };
  const message = create(generation.AttachRequestSchema, init);
  encodedBytes(generation.AttachRequestSchema, message);
  return message;
}

/**
 * Returns the request for what follows the output so far; throws as `toGeneration`.
 *
 * @param soFar - What exists of each sequence; empty: nothing of any.
 * @param requestId - As the first frontend said: ids of tool calls are made of it.
 * @param leftMs - What is left of the time budget, where there is one.
 */
export function continuation(
  first: generation.Generation,
  soFar: generation.SequenceSoFar[],
  requestId: string,
  leftMs: number | undefined,
  limitBytes: number,
): generation.Generation {
  const message = clone(generation.GenerationSchema, first);
  message.outputSoFar.push(...soFar);
  message.requestId = requestId;
  if (leftMs !== undefined) message.timeBudget = fromMs("timeBudgetMs", leftMs);
  return sized(message, "generation.output_so_far", limitBytes);
}

function sized(message: generation.Generation, field: string, limitBytes: number) {
  // gRPC would say RESOURCE_EXHAUSTED, as of an overload, and end a session with all that is open.
  const size = encodedBytes(generation.GenerationSchema, message);
  if (size <= limitBytes - AROUND_BYTES) return message;
  const most = `${limitBytes / 2 ** 20} MiB`;
  const description = `too long: the request has ${size} bytes, and a message at most ${most}`;
  throw new TokenwireError("INVALID_ARGUMENT", `${field}: ${description}`, {
    reason: "REQUEST_TOO_LARGE",
    violations: [{ field, description }],
  });
}

/**
 * Returns a message's size; throws RangeError, which names the field, for a value that can't be sent.
 * In a stream gRPC would end the call for it, a session with all that is open.
 */
export function encodedBytes<Desc extends DescMessage>(
  schema: Desc,
  message: MessageShape<Desc>,
): number {
  try {
    return toBinary(schema, message).length;
  } catch (fault) {
    throw new RangeError(fault instanceof Error ? fault.message : String(fault));
  }
}

function toPrompt(options: GenerationOptions, given: Record<string, unknown>): prompts.Prompt {
  const { prompt, chat } = options;
  if ((prompt === undefined) === (chat === undefined)) {
    throw new TypeError(`${chat ? "one" : "at least one"} of prompt and chat is required`);
  }
  const message = part(prompts.PromptSchema, given) ?? create(prompts.PromptSchema);
  if (chat !== undefined) {
    message.content = { case: "chat", value: toChat(chat, options, given) };
  } else if (typeof prompt === "string") {
    message.content = { case: "text", value: prompt };
  } else {
    const value = create(prompts.TokenIdsSchema, { ids: [...(prompt ?? [])] });
    message.content = { case: "tokenIds", value };
  }
  return message;
}

function toChat(
  chat: readonly ChatMessage[],
  { tools, toolChoice, documents, templateArguments }: GenerationOptions,
  given: Record<string, unknown>,
): prompts.Chat {
  const own = { ...given, messages: chat.map(toChatMessage), tools: tools?.map(toTool) };
  const message = part(prompts.ChatSchema, {
    ...own,
    toolChoice: toolChoice && toToolChoice(toolChoice),
    documents: documents?.map((each) => create(prompts.DocumentSchema, { ...each })),
    templateArguments: toJsonText(templateArguments),
  });
  return message ?? create(prompts.ChatSchema);
}

function toGuided(options: GenerationOptions): parts.GuidedDecoding | undefined {
  const { jsonObject, regex, grammar, choice } = options;
  const jsonSchema = toJsonText(options.jsonSchema);
  const guides: parts.GuidedDecoding["guide"][] = [];
  if (jsonSchema !== undefined) guides.push({ case: "jsonSchema", value: jsonSchema });
  if (jsonObject) guides.push({ case: "jsonObject", value: create(EmptySchema) });
  if (regex !== undefined) guides.push({ case: "regex", value: regex });
  if (grammar !== undefined) guides.push({ case: "grammar", value: grammar });
  if (choice !== undefined) {
    guides.push({ case: "choice", value: create(parts.ChoiceSchema, { options: [...choice] }) });
  }
  const [guide, another] = guides;
  if (another !== undefined) {
    const names = `${guide?.case} and ${another.case}`;
    throw new TypeError(`the output can be held to one form, not to ${names}`);
  }
  return guide && create(parts.GuidedDecodingSchema, { guide });
}

function toBiases(biases: Readonly<Record<number, number>>): parts.LogitBias[] {
  return Object.entries(biases).map(([id, bias]) =>
    create(parts.LogitBiasSchema, { tokenId: Number(id), bias }),
  );
}

/** Returns a message of those options that are fields of it; undefined where none is. */
function part<Desc extends DescMessage>(
  schema: Desc,
  given: Record<string, unknown>,
): MessageShape<Desc> | undefined {
  const names = schema.fields.map((field) => field.localName);
  const own = names.filter((name) => given[name] !== undefined && given[name] !== null);
  if (own.length === 0) return undefined;
  const init = Object.fromEntries(own.map((name) => [name, given[name]]));
  return create(schema, init as MessageInitShape<Desc>);
}

function word<Value>(name: string, words: Readonly<Record<string, Value>>, given: string): Value {
  const value = words[given];
  if (value !== undefined) return value;
  const known = Object.keys(words).join(", ");
  throw new TypeError(`${name}: ${JSON.stringify(given)} is none of ${known}`);
}

const ON_DISCONNECT: Readonly<Record<string, generation.OnDisconnect>> = {
  cancel: generation.OnDisconnect.CANCEL,
  detach: generation.OnDisconnect.DETACH,
};

const CONTENT: Readonly<Record<string, parts.StreamContent>> = {
  text_and_ids: parts.StreamContent.TEXT_AND_IDS,
  text: parts.StreamContent.TEXT,
  ids: parts.StreamContent.IDS,
};
