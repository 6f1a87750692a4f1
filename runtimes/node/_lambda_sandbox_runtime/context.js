'use strict';
// The handler's context. Its keys and their order are those of AWS's clients: until Node.js 22, and from 24 on.

function parsed(headers, name, what) {
  const value = headers[name];
  if (!value) return undefined;
  try {
    return JSON.parse(value);
  } catch (error) {
    throw new Error(`Cannot parse ${what} as json: ${error}`);
  }
}

function name() {
  return { functionName: process.env.AWS_LAMBDA_FUNCTION_NAME, functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION };
}

function ofFunction(names) {
  return {
    ...names,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
  };
}

function ofInvocation(headers) {
  return {
    clientContext: parsed(headers, 'lambda-runtime-client-context', 'ClientContext'),
    identity: parsed(headers, 'lambda-runtime-cognito-identity', 'CognitoIdentity'),
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    tenantId: headers['lambda-runtime-aws-tenant-id'],
  };
}

// `waits` has callbackWaitsForEmptyEventLoop; done, succeed and fail are there for handlers that do not stream.
function legacyContext(headers, waits, ends) {
  const context = {};
  const { functionName, functionVersion } = name();
  Object.defineProperty(context, 'callbackWaitsForEmptyEventLoop', {
    enumerable: true,
    configurable: true,
    get: () => waits.callbackWaitsForEmptyEventLoop,
    set: (value) => { waits.callbackWaitsForEmptyEventLoop = value; },
  });
  return Object.assign(context, ends, ofFunction({ functionVersion, functionName }), ofInvocation(headers), remaining(headers));
}

function context(headers) {
  const trace = { xRayTraceId: headers['lambda-runtime-trace-id'] };
  return { ...ofInvocation(headers), ...trace, ...remaining(headers), ...ofFunction(name()) };
}

function remaining(headers) {
  const deadline = Number(headers['lambda-runtime-deadline-ms']);
  return { getRemainingTimeInMillis: () => deadline - Date.now() };
}

module.exports = { context, legacyContext };
