'use strict';
// A managed Node.js runtime for AWS Lambda: standard library only, small, quick to start.
//
// runtime.js the loop · client.js the Runtime API · loading.js the handler · context.js its second argument ·
// logs.js the console · faults.js how errors are told · streaming.js response streams.
require('./_lambda_sandbox_runtime/runtime.js').main();
