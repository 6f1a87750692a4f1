'use strict';
// The loop: load the handler, then event by event.
//
// `legacy` is Node.js 22 and older: handlers may take a callback there, and what a plain function returns is ignored.

const { Client } = require('./client.js');
const { context, legacyContext } = require('./context.js');
const { Fault, cause, logText, text, told } = require('./faults.js');
const { load } = require('./loading.js');
const { Logs } = require('./logs.js');

const LAST_WITH_CALLBACKS = 22;
const EXIT_REJECTION = 128;
const EXIT_EXCEPTION = 129;
const JSON_TYPE = { 'Content-Type': 'application/json' };
const NO_CALLBACKS = 'ERROR: AWS Lambda has removed support for callback-based function handlers starting with Node.js 24. '
  + 'You need to modify this function to use a supported handler signature to use Node.js 24 or later. '
  + 'For more information see https://docs.aws.amazon.com/lambda/latest/dg/nodejs-handler.html.';

const NEVER = new Promise(() => {});

class Runtime {
  constructor() {
    this.legacy = Number(process.versions.node.split('.', 1)[0]) <= LAST_WITH_CALLBACKS;
    this.address = process.env.AWS_LAMBDA_RUNTIME_API;
    this.client = new Client(this.address);
    this.logs = new Logs(this.legacy);
    this.id = null; // of the invocation under way
    this.nonce = {};
    this.loaded = false;
    this.whenEmpty = null; // what to do when the event loop is empty
    this.ending = false;
  }

  async run() {
    this.logs.install();
    process.on('beforeExit', () => this._loopIsEmpty());
    process.on('uncaughtException', (error) => this._crash('Uncaught Exception', error, EXIT_EXCEPTION));
    process.on('unhandledRejection', (reason, promise) => {
      const error = new Fault('Runtime.UnhandledPromiseRejection', text(reason));
      this._crash('Unhandled Promise Rejection', Object.assign(error, { reason, promise }), EXIT_REJECTION);
    });
    this._offerGlobals();
    this.logs.mark(1);
    try {
      this.handler = await load(process.env.LAMBDA_TASK_ROOT, process.env._HANDLER, this.legacy);
      this._checkHandler();
      await new Promise(setImmediate); // a rejection at the top of the module is told now, and is an error of Init
      this.loaded = true;
    } catch (error) {
      await this._crash(this.legacy ? 'Uncaught Exception' : 'Init Error', error, this.legacy ? EXIT_EXCEPTION : 1);
    } finally {
      this.logs.mark(2);
    }
    for (;;) await this._serveOne();
  }

  // globalThis.awslambda, before the function is loaded; loading streams costs nothing until it is used.
  _offerGlobals() {
    const off = process.env.AWS_LAMBDA_NODEJS_NO_GLOBAL_AWSLAMBDA;
    if (off === '1' || off === 'true') return;
    const offered = {
      streamifyResponse: (handler, options) => require('./streaming.js').streamifyResponse(handler, options),
      HttpResponseStream: { from: (stream, prelude) => require('./streaming.js').HttpResponseStream.from(stream, prelude) },
    };
    globalThis.awslambda = Object.assign(globalThis.awslambda || {}, offered);
  }

  _checkHandler() {
    this.streams = this.handler[Symbol.for('aws.lambda.runtime.handler.streaming')]
      ? require('./streaming.js').streams(this.handler) : false;
    if (!this.legacy && !this.streams && this.handler.length >= 3) {
      throw new Fault('Runtime.CallbackHandlerDeprecated', NO_CALLBACKS);
    }
  }

  async _serveOne() {
    if (this.ending) await NEVER; // a process that is on its way out must not take an event
    const { headers, body } = await this.client.next();
    this.client.rest();
    this.id = headers['lambda-runtime-aws-request-id'];
    const nonce = headers['lambda-runtime-invocation-id'];
    this.nonce = nonce ? { 'Lambda-Runtime-Invocation-Id': nonce } : {};
    this.logs.requestId = this.id;
    this.logs.tenantId = headers['lambda-runtime-aws-tenant-id'];
    const trace = headers['lambda-runtime-trace-id'];
    if (trace) process.env._X_AMZN_TRACE_ID = trace;
    else delete process.env._X_AMZN_TRACE_ID;
    if (this.streams) await this._stream(headers, body);
    else await this._answer(headers, body);
    await new Promise(setImmediate); // what the handler left for the next turn of the loop belongs to this invocation
    this.id = null;
  }

  async _answer(headers, body) {
    let answer;
    try {
      answer = serialised(await this._call(headers, body));
    } catch (error) {
      await this._fail(error);
      return;
    }
    // From Node.js 24 on, what breaks in the turn of the loop in which the handler ends is still in time to fail the invoke.
    if (!this.legacy) await new Promise(setImmediate);
    if (!this.legacy && this.ending) await NEVER;
    await this.client.respond(this.id, { ...JSON_TYPE, ...this.nonce }, answer);
  }

  // The handler is called from a fresh stack, so that traces are the function's own.
  async _call(headers, body) {
    const event = JSON.parse(body.toString());
    if (this.legacy) return this._callLegacy(event, headers);
    const made = context(headers);
    const { handler } = this;
    return Promise.resolve().then(() => handler(event, made));
  }

  // Until Node.js 22: a promise counts at once; a callback when the event loop is empty, or at once if the handler says so.
  // The first of callback, done, succeed, fail and the promise counts, the others do nothing.
  _callLegacy(event, headers) {
    return new Promise((resolve, reject) => {
      const waits = { callbackWaitsForEmptyEventLoop: true };
      let isDone = false;
      const finish = (error, result, atOnce) => {
        if (isDone) return;
        isDone = true;
        if (error !== undefined && error !== null) reject(error);
        else if (atOnce || !waits.callbackWaitsForEmptyEventLoop) resolve(result);
        else this.whenEmpty = () => resolve(result);
      };
      const fail = (error) => finish(error === undefined || error === null ? 'handled' : error, undefined, true);
      const ends = {
        succeed: (result) => finish(null, result, true),
        fail,
        done: (error, result) => finish(error, result, true),
      };
      this.whenEmpty = () => finish(null, null, true); // it called nothing, and nothing is left that could
      const made = legacyContext(headers, waits, ends);
      const callback = (error, result) => finish(error, result, false);
      const { handler } = this;
      Promise.resolve().then(() => {
        const returned = handler(event, made, callback);
        if (returned && typeof returned.then === 'function') returned.then(ends.succeed, fail);
      }).catch(fail);
    }).finally(() => { this.whenEmpty = null; });
  }

  async _stream(headers, body) {
    const { HIGH_WATER_MARK, ResponseStream } = require('./streaming.js');
    const { id, nonce } = this;
    const open = (contentType, trailers) => this.client.stream(id, {
      'Content-Type': contentType,
      'Lambda-Runtime-Function-Response-Mode': 'streaming',
      'Transfer-Encoding': 'chunked',
      Trailer: trailers,
      ...nonce,
    });
    const stream = new ResponseStream(open, this.handler[HIGH_WATER_MARK]);
    let failed = null; // by the stream itself: the handler hears of it where it writes, the caller by the trailers
    stream.on('error', (error) => { failed = error; });
    const waits = { callbackWaitsForEmptyEventLoop: true };
    const alive = setInterval(() => {}, 0x7fffffff); // a stream that nobody ends is waited for until the deadline
    try {
      const event = JSON.parse(body.toString());
      const returned = (0, this.handler)(event, stream, this.legacy ? legacyContext(headers, waits, {}) : context(headers));
      if (!returned || typeof returned.then !== 'function') throw new Error('Streaming does not support non-async handlers.');
      if ((await returned) !== undefined) console.warn('Streaming handlers ignore return values.');
    } catch (error) {
      this.logs.error('Invoke Error', error, logText(error));
      stream.fail(error);
      failed = null;
    }
    try {
      await stream.answered;
      if (failed) this.logs.error('Invoke Error', failed, logText(failed));
    } finally {
      clearInterval(alive);
    }
    if (this.legacy && waits.callbackWaitsForEmptyEventLoop) {
      this.client.rest();
      await new Promise((resolve) => { this.whenEmpty = resolve; });
    }
  }

  async _fail(error) {
    this.logs.error('Invoke Error', error, logText(error));
    await this.client.reportError(this.id, this._errorFields(error), JSON.stringify(told(error)));
  }

  _errorFields(error) {
    const header = cause(error);
    return { ...JSON_TYPE, ...(header === null ? {} : { 'Lambda-Runtime-Function-XRay-Error-Cause': header }), ...this.nonce };
  }

  _loopIsEmpty() {
    const { whenEmpty } = this;
    this.whenEmpty = null;
    if (whenEmpty) setImmediate(whenEmpty);
  }

  // The end of this process: it is told to the API, on a connection of its own, for the other one may be polling.
  async _crash(words, error, code) {
    if (this.ending) return NEVER;
    this.ending = true;
    try {
      this.logs.error(words, error, logText(error));
      const document = told(error);
      const client = new Client(this.address);
      if (!this.loaded) {
        const type = document.errorType.replace(/[^\x20-\x7e]/g, '?');
        await client.reportInitError({ ...JSON_TYPE, 'Lambda-Runtime-Function-Error-Type': type }, JSON.stringify(document));
      } else if (this.id !== null) {
        await client.reportError(this.id, this._errorFields(error), JSON.stringify(document));
      }
    } catch { /* the API has gone: there is nobody to tell */ } // and whatever happens, the process ends
    process.exit(code);
  }
}

function serialised(result) {
  let answer;
  try {
    answer = JSON.stringify(result === undefined ? null : result);
  } catch {
    throw new Fault('Runtime.JSONStringifyError', 'Unable to stringify response body');
  }
  if (answer === undefined) throw new TypeError('Wrong arguments'); // a function or a symbol: in AWS's words
  return answer;
}

function main() {
  const runtime = new Runtime();
  runtime.run().catch((error) => {
    process.stderr.write(`lambda-sandbox: the Node.js runtime ends: ${error.message}\n`);
    process.exit(1);
  });
}

module.exports = { main };
