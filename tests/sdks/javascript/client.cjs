// The JavaScript SDK v3 on a line: each line of stdin is [command, input], each answer a line of stdout.
//
// Bytes are {"$bytes": base64}, dates {"$date": ISO}. Of a response stream every event is a line of its own, as it comes:
// {"event": …}. An error is what a program gets to catch: {"error": {name, message, …}}. The command "wait" is a waiter,
// "paginate" a paginator.
const readline = require("node:readline");
const lambda = require("@aws-sdk/client-lambda");

const client = new lambda.LambdaClient({
  endpoint: process.argv[2],
  region: "us-east-1",
  credentials: { accessKeyId: "x", secretAccessKey: "y" },
  maxAttempts: 1,
});

const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

function coded(value) {
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") };
  if (value instanceof Date) return { $date: value.toISOString() };
  if (Array.isArray(value)) return value.map(coded);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coded(one)]));
}

function decoded(value) {
  if (Array.isArray(value)) return value.map(decoded);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$bytes === "string") return Buffer.from(value.$bytes, "base64");
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, decoded(one)]));
}

async function answer(command, input) {
  if (command === "wait") return await lambda[input.until]({ client, maxWaitTime: 20, minDelay: 1, maxDelay: 1 }, input.of);
  if (command === "paginate") {
    const pages = [];
    for await (const page of lambda["paginate" + input.what]({ client, pageSize: input.size }, input.of)) pages.push(page);
    return pages;
  }
  const result = await client.send(new lambda[command + "Command"](input));
  if (result.EventStream === undefined) return result;
  for await (const event of result.EventStream) say({ event: coded(event) });
  return { ...result, EventStream: undefined };
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [command, input] = JSON.parse(line);
    try {
      say({ result: coded(await answer(command, decoded(input))) });
    } catch (error) {
      const typed = error instanceof lambda.LambdaServiceException && error.constructor.name === error.name;
      const { name, message, $fault, $metadata, $retryable, ...members } = error;
      say({ error: { name, message, typed, fault: $fault, status: $metadata?.httpStatusCode, members: coded(members) } });
    }
  }
}

main();
