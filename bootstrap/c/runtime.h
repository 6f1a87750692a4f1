/* What a handler in function.c has to do with runtime.c. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stddef.h>

/* Bytes that grow. `data` is always followed by a NUL that `length` does not count; it is NULL before the first byte. */
struct buffer {
    char *data;
    size_t length, room;
};

void buffer_add(struct buffer *buffer, const void *data, size_t length);
void buffer_format(struct buffer *buffer, const char *format, ...);          /* as printf */
void buffer_quote(struct buffer *buffer, const char *text, size_t length);   /* as a JSON string, with its quotes */

/* What is known of an invocation. A string that was not sent is NULL; none outlives the handler's return. */
struct context {
    const char *request_id, *function_arn, *trace_id, *client_context, *cognito_identity, *tenant_id;
    long long deadline_ms; /* since the epoch */
};

long long remaining_ms(const struct context *context);

/* Yours. `event` has `length` bytes and a NUL behind them; `answer` is empty.
 * Returns NULL when `answer` holds the response, or the type of an error, such as "Function.NotFound", when it holds the
 * error's message. Log to stdout or stderr. */
const char *handler(const char *event, size_t length, const struct context *context, struct buffer *answer);

#endif
