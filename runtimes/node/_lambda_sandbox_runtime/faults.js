'use strict';
// How errors are told: the document that the caller gets, the cause for X-Ray, the text in the log.

const { types } = require('util');

const CAUSE_LIMIT = 1024 * 1024; // AWS's clients in other languages leave the header out beyond it

// An error of the function's set-up or of its answer, with an error type of its own (Runtime.ImportModuleError …).
class Fault extends Error {
  constructor(type, message, stack) {
    super(message);
    Object.defineProperty(this, 'name', { value: type });
    if (stack !== undefined) Object.defineProperty(this, 'stack', { value: stack });
  }
}

// Errors of this realm and of others (vm, worker messages), and what looks like one.
function isError(value) {
  if (types.isNativeError(value)) return true;
  try {
    return typeof value === 'object' && value !== null && typeof value.name === 'string' && value.name !== ''
      && typeof value.message === 'string' && typeof value.stack === 'string';
  } catch {
    return false;
  }
}

// A value as text, whatever it does to prevent that: it must not hide the error itself.
function text(value) {
  for (const make of [String, (it) => Object.prototype.toString.call(it)]) {
    try {
      return make(value);
    } catch { /* the next one */ }
  }
  return typeof value;
}

// {errorType, errorMessage, trace}: as AWS's Node.js client posts it.
function told(error) {
  if (!isError(error)) return { errorType: typeof error, errorMessage: text(error), trace: [] };
  try {
    return { errorType: String(error.name), errorMessage: String(error.message), trace: lines(error) || [] };
  } catch {
    return {
      errorType: 'handled',
      errorMessage: 'callback called with Error argument, but there was a problem while retrieving one or more of its message, '
        + 'name, and stack',
      trace: [],
    };
  }
}

// For Lambda-Runtime-Function-XRay-Error-Cause; null if it cannot be made, or would be too long for a header.
function cause(error) {
  try {
    const known = isError(error);
    const stack = [];
    for (const line of (known && lines(error)) || []) {
      const frame = line.length < 1000 && /^\s+at (?:(.*) \()?(?:file:\/\/)?(.*?):(\d+)(?::\d+)?\)?$/.exec(line);
      if (frame) stack.push({ path: frame[2], line: Number(frame[3]), label: frame[1] || 'anonymous' });
    }
    const what = known ? { type: text(error.name), message: text(error.message), stack } : { message: text(error), stack };
    const paths = [...new Set(stack.map((frame) => frame.path))];
    const header = JSON.stringify({ working_directory: process.cwd(), exceptions: [what], paths }).replace(/\x7f/g, '\\u007f');
    return Buffer.byteLength(header) < CAUSE_LIMIT ? header : null;
  } catch { // a getter of the error's
    return null;
  }
}

// Errors, at any depth, as objects: for the text log, and for the JSON log (which names the class, and calls it a stackTrace).
function plain(error, asJson) {
  const object = {
    errorType: asJson ? className(error) : error.name,
    errorMessage: error.message,
  };
  if (!asJson && error.code !== undefined) object.code = error.code;
  if (asJson) object.stackTrace = lines(error);
  Object.assign(object, error);
  if (!asJson) object.stack = lines(error);
  return object;
}

// The name of an error's class. Our own are named by their error type: a Fault is nothing that a function knows.
function className(error) {
  if (error instanceof Fault) return error.name.replace(/^Runtime\./, '');
  return (error.constructor && error.constructor.name) || 'Error';
}

// The lines of a stack, without the frames of this runtime; undefined if there is none.
function lines(error) {
  if (typeof error.stack !== 'string') return undefined;
  return error.stack.split('\n').filter((line) => !(line.includes(__dirname) && /^\s+at /.test(line)));
}

function withErrors(asJson) {
  return (_, value) => (isError(value) ? plain(value, asJson) : value);
}

// The JSON text of an error in a text log. `error` may be anything that was thrown.
function logText(error) {
  const real = isError(error) ? error : new Error(text(error));
  try {
    return JSON.stringify(real, withErrors(false));
  } catch { // a cycle, a BigInt among its properties
    return JSON.stringify(told(error));
  }
}

module.exports = { Fault, cause, className, isError, lines, logText, text, told, withErrors };
