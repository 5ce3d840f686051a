import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { promisify } from "node:util";

import { create } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";
import { Client } from "@tokenwire/client";

import { chatServer } from "../examples/chat_server.js";
import { ListWorkersResponseSchema } from "../src/proto.js";
import {
  accepted,
  Commands,
  COMPLETED,
  delta,
  END,
  gate,
  refuse,
  ScriptedFrontend,
  send,
  sendIn,
} from "./scripted_frontend.js";

const FOLDER = new URL("../../", import.meta.url);

test("the README quotes the first example", () => {
  const readme = readFileSync(new URL("README.md", FOLDER), "utf8");
  const example = readFileSync(new URL("examples/quickstart.ts", FOLDER), "utf8");
  assert.ok(readme.includes(`\`\`\`ts\n${example}\`\`\``));
});

test("the first example runs", async (test) => {
  const frontend = await ScriptedFrontend.start(test, {
    streamGenerate: (call) => {
      if (call.request.generation?.sampling?.topP === 2) {
        const fields = ["generation.sampling.top_p"];
        refuse(call, status.INVALID_ARGUMENT, { reason: "INVALID_FIELD", fields });
        return;
      }
      send(call, accepted(), delta("Paris", [1], 0, END), COMPLETED);
      call.end();
    },
  });
  const script = new URL("../examples/quickstart.js", import.meta.url);
  const { stdout } = await promisify(execFile)(process.execPath, [
    script.pathname,
    frontend.target,
  ]);
  assert.match(stdout, /^Paris stop 2\nParis\nfirst token .*\nINVALID_ARGUMENT .*top_p/s);
});

test("the example that cancels shows that the engine has stopped", async (test) => {
  const open = new Set<unknown>();
  const frontend = await ScriptedFrontend.start(test, {
    listWorkers: (_, answer) => {
      answer(null, create(ListWorkersResponseSchema, { workers: [{ running: open.size }] }));
    },
    streamGenerate: (call) => {
      const isLong = call.request.generation?.stop?.ignoreEos === true;
      open.add(call);
      call.on("cancelled", () => open.delete(call));
      send(call, accepted(), ...[0, 1, 2].map((at) => delta("word ", [at], at)));
      if (isLong) return;
      send(call, delta("end", [3], 3, END), COMPLETED);
      open.delete(call);
      call.end();
    },
  });
  const script = new URL("../examples/stream_and_cancel.js", import.meta.url);
  const { stdout } = await promisify(execFile)(process.execPath, [
    script.pathname,
    frontend.target,
  ]);
  assert.match(stdout, /^word word word end\n\nrunning while the long answer comes: 1\n/);
  assert.match(stdout, /cancelled after 3 tokens: cancelled\nrunning afterwards: 0,/);
});

test("the chat server goes on where a frontend dies, and stops for a user who goes away", async (test) => {
  const begun = gate();
  const first = await ScriptedFrontend.start(test, {
    session: async (call) => {
      const { id } = await new Commands(call).opening();
      sendIn(call, id, accepted(), delta("One ", [1], 0));
      begun.open();
    },
  });
  const cancelled = gate<number>();
  const second = await ScriptedFrontend.start(test, {
    session: async (call) => {
      call.on("end", () => call.end());
      const commands = new Commands(call);
      const continued = await commands.opening();
      assert.deepEqual(continued.generation?.outputSoFar[0]?.tokenIds, [1]);
      const rest = delta("two.", [2], 1, { textOffset: 4n, ...END });
      sendIn(call, continued.id, accepted(), rest, COMPLETED);
      const abandoned = await commands.opening();
      sendIn(call, abandoned.id, accepted(), delta("Three", [3], 0));
      for (;;) {
        const { command } = await commands.next();
        if (command.case === "cancel") return cancelled.open(command.value.id - abandoned.id);
      }
    },
  });
  const client = new Client([first.target, second.target], { targetOrder: "listed" });
  const session = client.session();
  const server = chatServer(session).listen(0, "127.0.0.1");
  test.after(async () => {
    server.close();
    server.closeAllConnections();
    await session.close();
    client.close();
  });
  await once(server, "listening");
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/chat`;
  const body = JSON.stringify([{ role: "user", content: "Count." }]);

  const answer = fetch(url, { method: "POST", body });
  await begun.promise;
  const response = await answer;
  first.kill();
  const expected = ["text", "One ", "text", "two.", "end", "stop"];
  const lines = (await response.text()).split("\n").filter((line) => line !== "");
  assert.deepEqual(
    lines.map((line) => line.replace(/^(event|data): "?([^"]*)"?$/, "$2")),
    expected,
  );

  const user = new AbortController();
  const left = await fetch(url, { method: "POST", body, signal: user.signal });
  await left.body?.getReader().read();
  user.abort();
  assert.equal(await cancelled.promise, 0);

  const bad = await fetch(url, { method: "POST", body: "not JSON" });
  assert.equal(bad.status, 400);
});
