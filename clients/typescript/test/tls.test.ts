import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { ServerCredentials } from "@grpc/grpc-js";
import { Client } from "@tokenwire/client";

import { accepted, COMPLETED, delta, END, ScriptedFrontend, send } from "./scripted_frontend.js";

const skip = spawnSync("openssl", ["version"]).error && "openssl makes the certificate";

test(
  "the server is checked against the CA, and the client shows its certificate",
  { skip },
  async (test) => {
    const folder = mkdtempSync(join(tmpdir(), "tokenwire-"));
    test.after(() => rmSync(folder, { recursive: true }));
    const [certificate, key] = [join(folder, "cert.pem"), join(folder, "key.pem")];
    const form =
      "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test";
    const names = ["-addext", "subjectAltName=DNS:localhost", "-out", certificate, "-keyout", key];
    execFileSync("openssl", [...form.split(" "), ...names], { stdio: "ignore" });

    const [cert_chain, private_key] = [readFileSync(certificate), readFileSync(key)];
    const pair = [{ cert_chain, private_key }];
    const credentials = ServerCredentials.createSsl(cert_chain, pair, true);
    const answering = (call: Parameters<typeof send>[0]) => {
      assert.deepEqual(call.metadata.get("authorization"), ["Bearer tw_1"]);
      send(call, accepted(), delta("Hi", [1], 0, END), COMPLETED);
      call.end();
    };
    const frontend = await ScriptedFrontend.start(test, { streamGenerate: answering }, credentials);

    // Node.js warns of TLS to an address.
    const target = frontend.target.replace("127.0.0.1", "localhost");
    const tls = { ca: certificate, certificate, key };
    const client = new Client(target, { tls, apiKey: "tw_1" });
    const stranger = new Client(target, { tls: { ca: certificate }, retry: { attempts: 1 } });
    test.after(() => [client, stranger].forEach((each) => each.close()));
    assert.equal((await client.generate({ prompt: "x" })).text, "Hi");
    await assert.rejects(stranger.generate({ prompt: "x" }), {
      code: "UNAVAILABLE",
      isBreak: true,
    });
  },
);
