# A handler: the event comes as the first argument, the answer goes to standard output, the log to standard error.
# shellcheck shell=bash

handler() {
    echo "an event of ${#1} characters" >&2
    printf '{"echo":%s,"bash":"%s"}' "$1" "$BASH_VERSION"
}
