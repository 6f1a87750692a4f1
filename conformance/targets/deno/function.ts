// The handlers that the conformance suite asks a runtime for, in TypeScript.
import type { Context } from "../../../bootstrap/deno/runtime.ts";

interface Order {
  message: string;
  code: number;
  bytes: number;
  ms: number;
  lines: string[];
  errors: string[];
}

let calls = 0;

export const echo = (event: unknown) => event;

export function error(order: Order) {
  throw new RangeError(order.message);
}

export async function sleep(order: Order) {
  await new Promise((resolve) => setTimeout(resolve, order.ms));
  return true;
}

export const exit = (order: Order) => Deno.exit(order.code);

export const big = (order: Order) => "x".repeat(order.bytes);

export function log(order: Order) {
  order.lines.forEach((line) => console.log(line));
  order.errors.forEach((line) => console.error(line));
  return true;
}

export const count = () => ++calls;

export const context = (_: unknown, told: Context) => ({
  requestId: told.requestId,
  functionArn: told.functionArn,
  deadlineMs: told.deadline.getTime(),
  traceId: Deno.env.get("_X_AMZN_TRACE_ID") ?? null,
  clientContext: told.clientContext,
  identity: told.identity,
  tenantId: told.tenantId,
  functionName: Deno.env.get("AWS_LAMBDA_FUNCTION_NAME"),
  functionVersion: Deno.env.get("AWS_LAMBDA_FUNCTION_VERSION"),
  memoryMB: Number(Deno.env.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")),
  logGroup: Deno.env.get("AWS_LAMBDA_LOG_GROUP_NAME"),
  logStream: Deno.env.get("AWS_LAMBDA_LOG_STREAM_NAME"),
});
