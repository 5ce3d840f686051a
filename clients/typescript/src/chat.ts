/** Chats, in plain objects. */

import { create } from "@bufbuild/protobuf";

import * as pb from "./gen/tokenwire/frontend/v1/prompt_pb.js";

/** Who speaks. */
export type Role = "system" | "user" | "assistant" | "tool" | "developer" | "function";

/** One turn of a chat. */
export interface ChatMessage {
  readonly role: Role;
  /** Text or parts; null is what templates see as `none`, and without it they see no content. */
  readonly content?: string | readonly ContentPart[] | null;
  readonly name?: string;
  readonly reasoning?: string;
  readonly toolCalls?: readonly ToolCall[];
  /** With the role `tool`: the `id` of the call that it answers. */
  readonly toolCallId?: string;
}

/** One part of a message's content. */
export type ContentPart =
  { readonly text: string } | { readonly imageUrl: string } | { readonly audioUrl: string };

/** One call of a tool by the assistant. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** A JSON object, as JSON text. */
  readonly arguments: string;
}

/** A tool that the model may call. */
export interface Tool {
  readonly name: string;
  readonly description?: string;
  /** JSON Schema of the arguments, as an object or as JSON text. */
  readonly parameters?: object | string;
  /** Holds the arguments to the whole of `parameters`. */
  readonly strict?: boolean;
}

/** Whether the model calls tools, or which one it calls. */
export type ToolChoice = "auto" | "none" | "required" | { readonly name: string };

/** Returns JSON text of a value that may be JSON text already. */
export function toJsonText(value: object | string | undefined): string | undefined {
  return value === undefined || typeof value === "string" ? value : JSON.stringify(value);
}

/** Returns the contract's message; throws TypeError, which names the field. */
export function toChatMessage(message: ChatMessage, index: number): pb.ChatMessage {
  const { role, content, name, reasoning, toolCalls, toolCallId } = message;
  const number = ROLES[role];
  if (number === undefined) {
    const known = Object.keys(ROLES).join(", ");
    throw new TypeError(`chat[${index}].role: ${JSON.stringify(role)} is none of ${known}`);
  }
  return create(pb.ChatMessageSchema, {
    role: number,
    ...(typeof content === "string" && { content }),
    contentParts: content instanceof Array ? content.map(toPart) : [],
    omitContent: content === undefined,
    name,
    reasoning,
    toolCalls: toolCalls?.map((call) => create(pb.ToolCallSchema, { ...call })),
    toolCallId,
  });
}

/** Returns the contract's tool. */
export function toTool({ parameters, ...rest }: Tool): pb.Tool {
  return create(pb.ToolSchema, { ...rest, parameters: toJsonText(parameters) });
}

/** Returns the contract's choice; throws TypeError for an unknown word. */
export function toToolChoice(choice: ToolChoice): pb.ToolChoice {
  if (typeof choice === "object") {
    return create(pb.ToolChoiceSchema, { choice: { case: "name", value: choice.name } });
  }
  const value = MODES[choice];
  if (value === undefined) {
    const known = Object.keys(MODES).join(", ");
    throw new TypeError(`toolChoice: ${JSON.stringify(choice)} is none of ${known}`);
  }
  return create(pb.ToolChoiceSchema, { choice: { case: "mode", value } });
}

const ROLES: Readonly<Record<Role, pb.Role>> = {
  system: pb.Role.SYSTEM,
  user: pb.Role.USER,
  assistant: pb.Role.ASSISTANT,
  tool: pb.Role.TOOL,
  developer: pb.Role.DEVELOPER,
  function: pb.Role.FUNCTION,
};

const MODES: Readonly<Record<string, pb.ToolChoiceMode>> = {
  auto: pb.ToolChoiceMode.AUTO,
  none: pb.ToolChoiceMode.NONE,
  required: pb.ToolChoiceMode.REQUIRED,
};

function toPart(part: ContentPart): pb.ContentPart {
  if ("text" in part) return makePart({ case: "text", value: part.text });
  if ("imageUrl" in part) return makePart({ case: "imageUrl", value: part.imageUrl });
  return makePart({ case: "audioUrl", value: part.audioUrl });
}

function makePart(part: pb.ContentPart["part"]): pb.ContentPart {
  return create(pb.ContentPartSchema, { part });
}
