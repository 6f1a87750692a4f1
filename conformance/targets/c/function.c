/* The handlers that the conformance suite asks a runtime for, in C. _HANDLER says which of them this process has. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

/* ── what an event says: enough of JSON for those of the suite, which are valid and flat ── */

static const char *skip_spaces(const char *at) {
    return at + strspn(at, " \t\r\n");
}

/* What follows the string that begins here. */
static const char *skip_string(const char *at) {
    for (at++; *at != '"' && *at != '\0'; at++)
        if (*at == '\\' && at[1] != '\0') at++;
    return *at == '"' ? at + 1 : at;
}

/* Where the value of a key begins; NULL if there is no such key. */
static const char *value(const char *event, const char *key) {
    size_t length = strlen(key);
    for (const char *at = event; (at = strchr(at, '"')) != NULL;) {
        const char *end = skip_string(at), *colon = skip_spaces(end);
        if (*colon == ':' && (size_t)(end - at) == length + 2 && memcmp(at + 1, key, length) == 0) return skip_spaces(colon + 1);
        at = end;
    }
    return NULL;
}

static long number(const char *event, const char *key) {
    const char *at = value(event, key);
    return at != NULL ? strtol(at, NULL, 10) : 0;
}

static unsigned long hex4(const char *at) {
    char digits[5] = {0};
    memcpy(digits, at, strnlen(at, 4));
    return strtoul(digits, NULL, 16);
}

static void add_character(struct buffer *text, unsigned long code) {
    char bytes[4];
    size_t more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0x00, 0xC0, 0xE0, 0xF0};
    for (size_t i = more; i > 0; i--, code >>= 6) bytes[i] = (char)(0x80 | (code & 0x3F));
    bytes[0] = (char)(first[more] | code);
    buffer_add(text, bytes, more + 1);
}

/* Adds the text of the string that begins here. */
static void add_string(struct buffer *text, const char *at) {
    static const char names[] = "bfnrt", meant[] = "\b\f\n\r\t";
    for (at++; *at != '"' && *at != '\0'; at++) {
        if (*at != '\\') {
            buffer_add(text, at, 1);
            continue;
        }
        at++;
        const char *name = strchr(names, *at);
        if (*at == 'u') {
            unsigned long code = hex4(at + 1);
            at += 4;
            if (code >= 0xD800 && code < 0xDC00 && at[1] == '\\' && at[2] == 'u') { /* the first half of a pair */
                code = 0x10000 + ((code - 0xD800) << 10) + (hex4(at + 3) - 0xDC00);
                at += 6;
            }
            add_character(text, code);
        } else {
            buffer_add(text, name != NULL ? meant + (name - names) : at, 1);
        }
    }
}

/* Prints each of the strings in the list that begins here. */
static void print_lines(const char *at, FILE *where) {
    struct buffer line = {0};
    for (at = at != NULL ? skip_spaces(at + 1) : "]"; *at == '"'; at = skip_spaces(*at == ',' ? at + 1 : at)) {
        line.length = 0;
        add_string(&line, at);
        buffer_add(&line, "\n", 1);
        fwrite(line.data, 1, line.length, where);
        at = skip_spaces(skip_string(at));
    }
    free(line.data);
}

/* ── the handlers ── */

static void add_text(struct buffer *answer, const char *key, const char *text) {
    buffer_format(answer, ",\"%s\":", key);
    if (text == NULL)
        buffer_format(answer, "null");
    else
        buffer_quote(answer, text, strlen(text));
}

static void add_context(struct buffer *answer, const struct context *context) {
    buffer_format(answer, "{\"deadlineMs\":%lld", context->deadline_ms);
    buffer_format(answer, ",\"clientContext\":%s", context->client_context != NULL ? context->client_context : "null");
    buffer_format(answer, ",\"identity\":%s", context->cognito_identity != NULL ? context->cognito_identity : "null");
    buffer_format(answer, ",\"memoryMB\":%s", getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"));
    add_text(answer, "requestId", context->request_id);
    add_text(answer, "functionArn", context->function_arn);
    add_text(answer, "traceId", getenv("_X_AMZN_TRACE_ID"));
    add_text(answer, "tenantId", context->tenant_id);
    add_text(answer, "functionName", getenv("AWS_LAMBDA_FUNCTION_NAME"));
    add_text(answer, "functionVersion", getenv("AWS_LAMBDA_FUNCTION_VERSION"));
    add_text(answer, "logGroup", getenv("AWS_LAMBDA_LOG_GROUP_NAME"));
    add_text(answer, "logStream", getenv("AWS_LAMBDA_LOG_STREAM_NAME"));
    buffer_format(answer, "}");
}

static void pause_for(long milliseconds) {
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {}
}

static int is(const char *name) {
    return strcmp(getenv("_HANDLER"), name) == 0;
}

__attribute__((constructor)) static void load(void) {
    if (getenv("_HANDLER") != NULL && is("init_exit")) _exit(7);
}

const char *handler(const char *event, size_t length, const struct context *context, struct buffer *answer) {
    static int calls;
    if (is("echo")) {
        buffer_add(answer, event, length);
    } else if (is("error")) {
        add_string(answer, value(event, "message"));
        return "Function.AskedToFail";
    } else if (is("sleep")) {
        pause_for(number(event, "ms"));
        buffer_format(answer, "true");
    } else if (is("exit")) {
        exit((int)number(event, "code"));
    } else if (is("big")) {
        buffer_add(answer, "\"", 1);
        for (long left = number(event, "bytes"); left > 0; left--) buffer_add(answer, "x", 1);
        buffer_add(answer, "\"", 1);
    } else if (is("log")) {
        print_lines(value(event, "lines"), stdout);
        print_lines(value(event, "errors"), stderr);
        buffer_format(answer, "true");
    } else if (is("context")) {
        add_context(answer, context);
    } else if (is("count")) {
        buffer_format(answer, "%d", ++calls);
    } else {
        buffer_format(answer, "there is no handler %s", getenv("_HANDLER"));
        return "Function.NotFound";
    }
    return NULL;
}
