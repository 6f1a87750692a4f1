/* A handler: wraps the event into an object, and fails when the event is the string "fail". */
#include <stdio.h>
#include <string.h>

#include "runtime.h"

const char *handler(const char *event, size_t length, const struct context *context, struct buffer *answer) {
    fprintf(stderr, "an event of %zu bytes\n", length);
    if (strcmp(event, "\"fail\"") == 0) {
        buffer_format(answer, "the event was %s", event);
        return "Function.AskedToFail";
    }
    buffer_format(answer, "{\"event\":");
    buffer_add(answer, event, length);
    buffer_format(answer, ",\"requestId\":");
    buffer_quote(answer, context->request_id, strlen(context->request_id));
    buffer_format(answer, ",\"remainingMs\":%lld}", remaining_ms(context));
    return NULL;
}
