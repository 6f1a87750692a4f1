# frozen_string_literal: true

# A managed Ruby runtime for AWS Lambda: standard library only, small, quick to start.
#
# runtime the loop · client the Runtime API · handler the function · context its second argument · logs what it prints ·
# faults how errors are told.

Encoding.default_external = Encoding::UTF_8 # whatever locale this machine has: Lambda's is UTF-8

require_relative "_lambda_sandbox_runtime/runtime"

LambdaSandboxRuntime.run
