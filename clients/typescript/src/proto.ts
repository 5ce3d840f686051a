/** The contract's own messages and services, for what the client has no name of its own for. */

export * from "./gen/tokenwire/frontend/v1/activity_pb.js";
export * from "./gen/tokenwire/frontend/v1/generation_pb.js";
export * from "./gen/tokenwire/frontend/v1/model_pb.js";
export * from "./gen/tokenwire/frontend/v1/options_pb.js";
export * from "./gen/tokenwire/frontend/v1/prompt_pb.js";
export * from "./gen/tokenwire/frontend/v1/tokenization_pb.js";
