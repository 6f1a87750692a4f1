// The handlers that the conformance suite asks a runtime for, in JavaScript.
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';

let calls = 0;

export const echo = async (event) => event;

export const error = async (event) => { throw new RangeError(event.message); };

export const sleep = async (event) => {
  await pause(event.ms);
  return true;
};

export const exit = async (event) => process.exit(event.code);

export const big = async (event) => 'x'.repeat(event.bytes);

export const stream = awslambda.streamifyResponse(async (event, response) => {
  const chunk = Buffer.alloc(event.bytes, 'x');
  for (let number = 1; number <= event.chunks; number += 1) {
    if (response.destroyed) throw new Error('the stream was cut off');
    if (!response.write(chunk)) await once(response, 'drain');
    if (number === event.fail) throw new RangeError('as the suite asked');
    if (event.ms) await pause(event.ms);
  }
  response.end();
});

export const log = async (event) => {
  for (const line of event.lines) process.stdout.write(`${line}\n`);
  for (const line of event.errors) process.stderr.write(`${line}\n`);
  return true;
};

export const count = async () => { calls += 1; return calls; };

export const context = async (event, told) => ({
  requestId: told.awsRequestId,
  functionArn: told.invokedFunctionArn,
  remainingMs: told.getRemainingTimeInMillis(),
  traceId: process.env._X_AMZN_TRACE_ID ?? null,
  clientContext: told.clientContext ?? null,
  identity: told.identity ?? null,
  tenantId: told.tenantId ?? null,
  functionName: told.functionName,
  functionVersion: told.functionVersion,
  memoryMB: told.memoryLimitInMB,
  logGroup: told.logGroupName,
  logStream: told.logStreamName,
});
