// The function that the tests run on AWS's Node.js client. The event says what to do; anything else comes back.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

if (process.env.INIT === "fail") {
  throw new RangeError("no start");
}

async function until(file) {
  while (!existsSync(file)) {
    await pause(2);
  }
}

export const handler = async (event, context) => {
  switch (event?.do) {
    case "fail":
      throw new RangeError(event.text);
    case "sleep":
      console.log("asleep");
      return await pause(60_000);
    case "exit":
      return process.exit(event.status);
    case "large":
      return "x".repeat(event.size - 2);
    case "pid":
      return process.pid;
    case "child":
      return [process.pid, spawn("sleep", ["1000"]).pid];
    case "log":
      return console.error(event.text);
    case "leave": // nobody waits for it, and it fails
      Promise.reject(new RangeError(event.text));
      return await pause(60_000);
    case "context":
      return {
        client: [context.clientContext.client.app_title, context.clientContext.custom, context.clientContext.env],
        identity: [context.identity.cognitoIdentityId, context.identity.cognitoIdentityPoolId],
        tenant: context.tenantId,
        arn: context.invokedFunctionArn,
        id: context.awsRequestId,
        trace: process.env._X_AMZN_TRACE_ID,
        left: context.getRemainingTimeInMillis(),
      };
  }
  return event;
};

export const stream = awslambda.streamifyResponse(async (event, response) => {
  response.setContentType("text/plain");
  response.write("first");
  await until("go");
  if (event.exit) {
    process.exit(event.exit);
  }
  if (event.fail) {
    throw new RangeError("in mid-stream");
  }
  response.write("second");
  response.end();
});
