'use strict';
// The console as Lambda patches it: text or JSON, a level for each method, to the log descriptor (framed) or to stdout.
//
// A frame is u32 type | u32 length | u64 µs | message, big endian; one record stays one record, however many lines it has.

const fs = require('fs');
const { format } = require('util');
const { className, isError, lines, text, withErrors } = require('./faults.js');

const MARK = 0xa55b0000;
const MAGIC = 0xa55a0002; // bit 1: the time is there; bit 0: text
const ATOMIC = 4096; // PIPE_BUF: a write of at most this much is never mixed with another
const LEVELS = { TRACE: 1, DEBUG: 2, INFO: 3, WARN: 4, ERROR: 5, FATAL: 6 };
const METHODS = { trace: 'TRACE', debug: 'DEBUG', log: 'INFO', info: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };

class Logs {
  // requestId and tenantId are those of the invocation under way, or of the last one.
  constructor(legacy) {
    this.legacy = legacy;
    this.requestId = legacy ? undefined : '-';
    this.tenantId = undefined;
    this.asJson = (process.env.AWS_LAMBDA_LOG_FORMAT || '').toUpperCase() === 'JSON';
    const fd = process.env._LAMBDA_TELEMETRY_LOG_FD; // children must not inherit it
    delete process.env._LAMBDA_TELEMETRY_LOG_FD;
    this.fd = fd ? hidden(Number(fd)) : null;
    this.printed = (this.fd !== null && reopened(1)) || 1; // it works also when the function has closed stdout
  }

  // Puts our methods into the console; those below AWS_LAMBDA_LOG_LEVEL do nothing.
  install() {
    const least = LEVELS[(process.env.AWS_LAMBDA_LOG_LEVEL || '').toUpperCase()] || 0;
    for (const [method, level] of Object.entries(METHODS)) {
      console[method] = LEVELS[level] < least ? () => {} : (...values) => this.log(level, values);
    }
  }

  log(level, values) {
    const time = new Date();
    const line = this.asJson
      ? this._json(time, level, values)
      : `${time.toISOString()}\t${this.requestId}\t${level}\t${formatted(values)}`;
    this.write(line, level, time);
  }

  // An error of the function's: in a text log after a few words, in a JSON log as the record's message.
  error(words, error, told) {
    if (this.asJson) this.log('ERROR', [isError(error) ? error : new Error(text(error))]);
    else this.write(`${new Date().toISOString()}\t${this.requestId}\tERROR\t${words} \t${told}`, 'ERROR', new Date());
  }

  write(line, level, time) {
    if (this.fd === null) {
      writeAll(1, Buffer.from(`${this.asJson ? line : line.replace(/\n/g, '\r')}\n`));
      return;
    }
    this._frame(MAGIC | (this.asJson ? 0 : 1) | (LEVELS[level] << 2), Buffer.from(line), time.getTime());
  }

  // Tells the host that function init begins (1) or has ended (2).
  mark(number) {
    if (this.fd !== null) this._frame(MARK | number, Buffer.alloc(0), Date.now());
  }

  // Short frames go down the pipe of stdout, which keeps their order among printed lines.
  _frame(type, message, ms) {
    const frame = Buffer.allocUnsafe(16 + message.length);
    frame.writeUInt32BE(type >>> 0, 0);
    frame.writeUInt32BE(message.length, 4);
    frame.writeBigUInt64BE(BigInt(ms) * 1000n, 8);
    message.copy(frame, 16);
    try {
      writeAll(frame.length <= ATOMIC ? this.printed : this.fd, frame);
    } catch { // the function closed it: from here on as without
      this.fd = null;
    }
  }

  _json(time, level, values) {
    const record = { timestamp: time.toISOString(), level, requestId: this.requestId, tenantId: this.tenantId || undefined };
    if (values.length <= 1) {
      record.message = values[0];
      try {
        return JSON.stringify(record, withErrors(true));
      } catch { // a cycle, a BigInt, a getter that throws
        record.message = formatted(values);
        return JSON.stringify(record);
      }
    }
    record.message = formatted(values);
    const error = values.find(isError);
    if (error !== undefined) {
      record.errorType = className(error);
      record.errorMessage = error.message;
      record.stackTrace = lines(error);
    }
    return JSON.stringify(record);
  }
}

// console.log() of nothing is "undefined", as on Lambda.
function formatted(values) {
  try {
    return format(values[0], ...values.slice(1));
  } catch { // a value that cannot be looked at
    return values.map(text).join(' ');
  }
}

// Another descriptor for the same pipe, that children do not inherit and that blocks when the pipe is full.
function reopened(fd) {
  try {
    return fs.openSync(`/dev/fd/${fd}`, 'a');
  } catch {
    return null;
  }
}

// The log descriptor that we were given. Node.js hides low numbers from children, but not all: it is not kept as it is.
function hidden(fd) {
  const own = reopened(fd);
  if (own === null) return fd;
  fs.closeSync(fd);
  return own;
}

function writeAll(fd, data) {
  let at = 0;
  while (at < data.length) {
    try {
      at += fs.writeSync(fd, data, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // a full pipe that does not block: 1 ms
    }
  }
}

module.exports = { Logs };
