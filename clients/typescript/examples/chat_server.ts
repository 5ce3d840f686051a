/**
 * A backend that serves its own users over one session: chat over HTTP, answered as server-sent
 * events.
 *
 *     node dist/examples/chat_server.js PORT HOST:PORT [HOST:PORT ...]
 *     curl -N 127.0.0.1:PORT/chat -d '[{"role": "user", "content": "Tell me a story."}]'
 *
 * A user who goes away stops the engine, one who reads slowly holds up no other, and an answer goes
 * on when its frontend dies, where there are several.
 */

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { fileURLToPath } from "node:url";

import { type ChatMessage, Client, type Session, TokenwireError } from "@tokenwire/client";

/** Deltas of one answer that may wait for their user; what is beyond waits, merged, at the frontend. */
const WINDOW = 16;

/** Largest chat that is read. */
const CHAT_BYTES = 1024 * 1024;

/** Returns a server whose answers all come over the session. */
export function chatServer(session: Session): Server {
  return createServer((request, response) => {
    if (request.method !== "POST" || request.url !== "/chat") {
      response.writeHead(404).end();
      return;
    }
    serve(session, request, response).catch((error: unknown) => {
      if (!response.destroyed) console.error(error);
      response.destroy();
    });
  });
}

async function serve(session: Session, request: IncomingMessage, response: ServerResponse) {
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  try {
    const chat = await readChat(request);
    const options = { creditMessages: WINDOW, signal: gone.signal };
    const generation = session.open({ chat, maxTokens: 256 }, options);
    for await (const { text } of generation) {
      if (!response.headersSent) response.writeHead(200, { "content-type": "text/event-stream" });
      if (text !== "" && !response.write(event("text", text))) {
        await once(response, "drain", { signal: gone.signal });
      }
      generation.grant(1);
    }
    response.end(event("end", generation.result.finishReason));
  } catch (error) {
    if (gone.signal.aborted) return;
    if (!(error instanceof TokenwireError || error instanceof TypeError)) throw error;
    const isUsers = error instanceof TypeError || error.code === "INVALID_ARGUMENT";
    if (!response.headersSent) response.writeHead(isUsers ? 400 : 503);
    response.end(event("error", error.message));
  }
}

async function readChat(request: IncomingMessage): Promise<ChatMessage[]> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    pieces.push(piece);
    bytes += piece.length;
    if (bytes > CHAT_BYTES) throw new TypeError(`chat: more than ${CHAT_BYTES} bytes`);
  }
  let chat: unknown;
  try {
    chat = JSON.parse(Buffer.concat(pieces).toString());
  } catch {
    throw new TypeError("chat: not JSON");
  }
  if (!Array.isArray(chat)) throw new TypeError("chat: not a list of messages");
  return chat as ChatMessage[];
}

function event(name: string, data: string): string {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [port, ...targets] = process.argv.slice(2);
  const client = new Client(targets.length > 0 ? targets : "127.0.0.1:50051");
  const session = client.session();
  const server = chatServer(session).listen(Number(port ?? 8080), "127.0.0.1");
  await once(process, "SIGINT");
  server.close();
  server.closeAllConnections();
  await session.close();
  client.close();
}
