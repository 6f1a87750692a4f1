// Adds up the orders of an event; what it has seen since its cold start shows that the process is the same one.

let seen = 0;

export const handler = async (event, context) => {
  const total = event.orders.reduce((sum, { quantity, price }) => sum + quantity * price, 0);
  seen += event.orders.length;
  console.info("%d orders, %s in all", event.orders.length, total.toFixed(2));
  if (total > 1000) throw new RangeError(`${total.toFixed(2)} is more than anybody may order`);
  return { total, seenSinceColdStart: seen, remainingMs: context.getRemainingTimeInMillis() };
};

// The same as a response stream: --handler app.stream
export const stream = awslambda.streamifyResponse(async (event, responseStream) => {
  for (const { item, quantity } of event.orders) responseStream.write(`${quantity} ${item}\n`);
  responseStream.end();
});
