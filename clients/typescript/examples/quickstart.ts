import { Client, TokenwireError } from "@tokenwire/client";

const client = new Client(process.argv[2] ?? "127.0.0.1:50051", { timeoutMs: 30_000 });

const answer = await client.generate({
  prompt: "The capital of France is",
  maxTokens: 8,
  temperature: 0,
});
console.log(answer.text, answer.finishReason, answer.usage.completionTokens);

const stream = client.stream({ chat: [{ role: "user", content: "Tell me a story." }] });
for await (const delta of stream) process.stdout.write(delta.text);
console.log("\nfirst token after", stream.result.timings.timeToFirstTokenMs, "ms");

try {
  await client.generate({ prompt: "Hello", topP: 2 });
} catch (error) {
  if (!(error instanceof TokenwireError)) throw error;
  console.log(error.code, error.violations);
}
client.close();
