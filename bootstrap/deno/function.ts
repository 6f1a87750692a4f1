import type { Context } from "./runtime.ts";

/** Wraps the event into an object; fails when the event is the string "fail". */
export function handler(event: unknown, context: Context) {
  console.error(`an event of ${JSON.stringify(event).length} characters`);
  if (event === "fail") throw new RangeError('the event was "fail"');
  return { event, requestId: context.requestId, remainingMs: context.deadline.getTime() - Date.now() };
}
