'use strict';
// Response streams: awslambda.streamifyResponse and awslambda.HttpResponseStream.

const { Writable } = require('stream');
const { Fault, told } = require('./faults.js');

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const HIGH_WATER_MARK = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
const HTTP_TYPE = 'application/vnd.awslambda.http-integration-response';
const ERROR_TYPE = 'Lambda-Runtime-Function-Error-Type';
const ERROR_BODY = 'Lambda-Runtime-Function-Error-Body';

// Marks a handler as (event, responseStream, context) => Promise.
function streamifyResponse(handler, options) {
  handler[STREAMING] = 'response';
  const mark = options && Number.parseInt(options.highWaterMark, 10);
  if (mark > 0) handler[HIGH_WATER_MARK] = mark;
  return handler;
}

// Whether a handler streams. Throws a Fault if it says so in a way that is not known.
function streams(handler) {
  if (!handler[STREAMING]) return false;
  if (handler[STREAMING] === 'response') return true;
  throw new Fault('Runtime.MalformedStreamingHandler', 'Only response streaming is supported.');
}

const HttpResponseStream = {
  // Status, header fields and cookies go before the body, as JSON, and eight NUL bytes after them.
  from(stream, prelude) {
    stream.setContentType(HTTP_TYPE);
    stream._prelude = () => Buffer.concat([Buffer.from(JSON.stringify(prelude)), Buffer.alloc(8)]);
    return stream;
  },
};

// The second argument of a streaming handler. `open(contentType)` begins the request, at the first byte.
class ResponseStream extends Writable {
  constructor(open, highWaterMark) {
    super(highWaterMark ? { highWaterMark, decodeStrings: true } : { decodeStrings: true });
    this._open = open;
    this._request = null;
    this._contentType = 'application/octet-stream';
    this._trailers = {};
    this._prelude = null;
    this.answered = new Promise((resolve, reject) => { this._answered = { resolve, reject }; });
    this.answered.catch(() => {});
  }

  setContentType(type) {
    if (this._request !== null) throw new Fault('Runtime.InvalidStreamingOperation', 'Cannot set content-type, too late.');
    this._contentType = type;
  }

  // Strings and bytes as they are, anything else as JSON.
  write(chunk, ...rest) {
    return super.write(bytes(chunk), ...rest);
  }

  end(chunk, ...rest) {
    if (chunk === undefined || chunk === null || typeof chunk === 'function') return super.end(chunk, ...rest);
    return super.end(bytes(chunk), ...rest);
  }

  // Ends the stream with an error in its trailers. After its end there is nobody to tell.
  fail(error) {
    if (this.writableEnded || this.destroyed) return;
    this._setTrailers(error);
    super.end();
  }

  _setTrailers(error) {
    const document = told(error);
    this._trailers = {
      [ERROR_TYPE]: document.errorType.replace(/[^\x20-\x7e]/g, '?'),
      [ERROR_BODY]: Buffer.from(JSON.stringify(document)).toString('base64'),
    };
  }

  _begin() {
    if (this._request !== null) return;
    const failed = ERROR_TYPE in this._trailers;
    const prelude = this._prelude && !failed ? this._prelude() : null; // it may throw: before anything is sent
    this._request = this._open(this._contentType, [ERROR_TYPE, ERROR_BODY]);
    this._request.reply.then(this._answered.resolve, this._answered.reject);
    if (prelude !== null) this._request.write(prelude, () => {});
  }

  _write(chunk, _, done) {
    try {
      this._begin();
    } catch (error) {
      done(error);
      return;
    }
    this._request.write(chunk, done);
  }

  _final(done) {
    try {
      this._finish();
    } catch (error) {
      done(error);
      return;
    }
    this.answered.then(() => done(), done);
  }

  // destroy() in mid-stream: the caller hears of the error, instead of a connection that is cut.
  _destroy(error, done) {
    if (!this.writableFinished && !this._ended) {
      this._setTrailers(error || new Error('Response stream is not finished.'));
      this._finish();
    }
    done(error);
  }

  _finish() {
    this._begin();
    this._ended = true; // only now: what begins may throw, and then destroy() ends it
    this._request.end(this._trailers);
  }
}

function bytes(chunk) {
  if (typeof chunk === 'string' || chunk instanceof Uint8Array || chunk === null || chunk === undefined) return chunk;
  return JSON.stringify(chunk);
}

module.exports = { HIGH_WATER_MARK, HttpResponseStream, ResponseStream, streamifyResponse, streams };
