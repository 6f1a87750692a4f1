# frozen_string_literal: true

# A managed Ruby runtime for AWS Lambda: standard library only, small, quick to start.
#
# runtime the loop · client the Runtime API · handler the function · context its second argument · logs what it prints ·
# faults how errors are told · surroundings what a function finds without asking for it.

Encoding.default_external = Encoding::UTF_8 # whatever locale this machine has: Lambda's is UTF-8

# A function may have a logger.rb or json.rb of its own: what we load is not looked for there.
given = $LOAD_PATH.dup
$LOAD_PATH.reject! { |folder| ENV.fetch("RUBYLIB", "").split(":").include?(folder) }
require_relative "_lambda_sandbox_runtime/runtime"
$LOAD_PATH.replace(given)

LambdaSandboxRuntime.run
