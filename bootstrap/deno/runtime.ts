// A custom runtime in Deno: asks for an event, calls the handler with it, posts what that returns.
//
// The handler is named FILE.FUNCTION (_HANDLER): FUNCTION is what FILE.ts in the code folder exports. What is wrong with the
// connection or with the protocol ends the process with status 1 and a line on standard error: Lambda then starts a new one.

/** What a handler is told of its invocation, besides the event. */
export interface Context {
  requestId: string;
  functionArn: string;
  deadline: Date;
  traceId: string | null;
  clientContext: unknown;
  identity: unknown;
  tenantId: string | null;
}

type Handler = (event: unknown, context: Context) => unknown;

const address = Deno.env.get("AWS_LAMBDA_RUNTIME_API") ?? stop("there is no AWS_LAMBDA_RUNTIME_API: this is a runtime");
const [hostname, port] = address.split(":");
// Proxies in the environment are the function's; the Runtime API is reached without one.
const client = Deno.createHttpClient({ proxy: { transport: "tcp", hostname, port: Number(port) } });

function stop(why: string): never {
  console.error(`runtime: ${why}`);
  Deno.exit(1);
}

async function call(path: string, options: RequestInit = {}): Promise<[Response, string]> {
  try {
    const reply = await fetch(`http://${address}/2018-06-01/runtime/${path}`, { ...options, client });
    return [reply, await reply.text()];
  } catch (error) {
    stop(`${path}: ${error instanceof Error ? error.message : error}`);
  }
}

async function post(path: string, body: string, fields: Record<string, string>): Promise<void> {
  const [reply, text] = await call(path, { method: "POST", body, headers: { "Content-Type": "application/json", ...fields } });
  if (reply.status === 413) console.error(`runtime: the answer is too long: ${text}`); // the caller has been told
  else if (reply.status !== 202) stop(`posted to ${path} and got ${reply.status}: ${text}`);
}

async function postError(path: string, error: unknown, fields: Record<string, string> = {}): Promise<void> {
  const known = error instanceof Error ? error : new Error(String(error));
  const document = { errorType: known.name, errorMessage: known.message, stackTrace: known.stack?.split("\n").slice(1) ?? [] };
  const errorType = known.name.replace(/[^!-~]/g, "?"); // what may stand in a header field
  await post(path, JSON.stringify(document), { ...fields, "Lambda-Runtime-Function-Error-Type": errorType });
}

/** Of a field that may not be there, or be empty. */
function parsed(field: string | null): unknown {
  return field ? JSON.parse(field) : null;
}

async function load(): Promise<Handler> {
  const [, file, name] = /^(.+)\.([^.]+)$/.exec(Deno.env.get("_HANDLER") ?? "") ?? [];
  if (name === undefined) throw new Error("the handler is to be named FILE.FUNCTION");
  const handler = (await import(`file://${Deno.env.get("LAMBDA_TASK_ROOT")}/${file}.ts`))[name];
  if (typeof handler !== "function") throw new Error(`${file}.ts exports no function ${name}`);
  return handler;
}

async function serve(handler: Handler): Promise<void> {
  const [reply, text] = await call("invocation/next");
  if (reply.status !== 200) stop(`asked for an event and got ${reply.status}: ${text}`);
  const field = (name: string) => reply.headers.get(`Lambda-Runtime-${name}`) || null;
  const requestId = field("Aws-Request-Id") ?? stop("got an event without a request id");
  const traceId = field("Trace-Id");
  if (traceId === null) Deno.env.delete("_X_AMZN_TRACE_ID");
  else Deno.env.set("_X_AMZN_TRACE_ID", traceId);
  const id = field("Invocation-Id"); // this attempt's own: posts carry it, so that a late one is not taken for another's
  const fields: Record<string, string> = id === null ? {} : { "Lambda-Runtime-Invocation-Id": id };
  let answer: string;
  try {
    const result = await handler(JSON.parse(text), {
      requestId,
      functionArn: field("Invoked-Function-Arn") ?? "",
      deadline: new Date(Number(field("Deadline-Ms"))),
      traceId,
      clientContext: parsed(field("Client-Context")),
      identity: parsed(field("Cognito-Identity")),
      tenantId: field("Aws-Tenant-Id"),
    });
    answer = JSON.stringify(result) ?? "null";
  } catch (error) {
    return await postError(`invocation/${requestId}/error`, error, fields);
  }
  await post(`invocation/${requestId}/response`, answer, fields);
}

let handler: Handler;
try {
  handler = await load();
} catch (error) {
  await postError("init/error", error);
  stop(error instanceof Error ? `${error.name}: ${error.message}` : String(error));
}
while (true) await serve(handler);
