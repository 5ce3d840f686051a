export type { ApiKey, Tls } from "./channel.js";
export type { ChatMessage, ContentPart, Role, Tool, ToolCall, ToolChoice } from "./chat.js";
export { type CallOptions, Client, type ClientOptions } from "./client.js";
export { type Code, type FieldViolation, type Quota, TokenwireError } from "./errors.js";
export type { DeltaOptions, GenerationOptions, GenerationRequest } from "./options.js";
export { StreamedGeneration } from "./progress.js";
export type { RetryPolicy } from "./retry.js";
export { type AttachOptions, type OpenOptions, Session, SessionGeneration } from "./session.js";
export { GenerationStream } from "./stream.js";
export type {
  Accepted,
  Answer,
  Attempt,
  ConversationPrompt,
  Delta,
  FinishReason,
  SequenceResult,
  Stage,
  Timings,
  TokenLogprob,
  ToolCallDelta,
  Usage,
} from "./types.js";
