/* A custom runtime in C11 and POSIX sockets: asks for an event, calls `handler` with it, posts what that leaves in its
 * answer. One kept-alive connection carries it all. What is wrong with the connection or with the protocol ends the process
 * with status 1 and a line on stderr: Lambda then starts a new one. */
#define _POSIX_C_SOURCE 200809L

#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BASE "/2018-06-01/runtime/invocation/"
#define HEAD_LIMIT (64 * 1024) /* a reply's header fields; the longest that Lambda sends is a client context of 3.5 KB */

static void die(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("runtime: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

/* ── buffers ── */

static void make_room(struct buffer *buffer, size_t more) {
    if (more > SIZE_MAX / 4 || buffer->length > SIZE_MAX / 4) die("%zu bytes are more than this machine can hold", more);
    size_t needed = buffer->length + more + 1;
    if (needed > buffer->room) {
        buffer->room = needed > 2 * buffer->room ? needed : 2 * buffer->room;
        buffer->data = realloc(buffer->data, buffer->room);
        if (buffer->data == NULL) die("no memory for %zu bytes", buffer->room);
    }
    buffer->data[buffer->length] = '\0';
}

void buffer_add(struct buffer *buffer, const void *data, size_t length) {
    make_room(buffer, length);
    if (length > 0) memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
    buffer->data[buffer->length] = '\0';
}

void buffer_format(struct buffer *buffer, const char *format, ...) {
    va_list values, again;
    va_start(values, format);
    va_copy(again, values);
    int length = vsnprintf(NULL, 0, format, values);
    if (length < 0) die("cannot format %s", format);
    make_room(buffer, (size_t)length);
    vsnprintf(buffer->data + buffer->length, (size_t)length + 1, format, again);
    buffer->length += (size_t)length;
    va_end(again);
    va_end(values);
}

/* How long the UTF-8 character at `at` is; 0 if there is none: a stray or missing byte, a surrogate, an overlong form. */
static size_t character(const unsigned char *at, size_t left) {
    unsigned char first = at[0];
    size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (length > left) return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xC0) != 0x80) return 0;
    if (first == 0xE0 && at[1] < 0xA0) return 0;
    if (first == 0xED && at[1] > 0x9F) return 0;
    if (first == 0xF0 && at[1] < 0x90) return 0;
    if (first == 0xF4 && at[1] > 0x8F) return 0;
    return length;
}

void buffer_quote(struct buffer *buffer, const char *text, size_t length) {
    const unsigned char *at = (const unsigned char *)text;
    buffer_add(buffer, "\"", 1);
    while (length > 0) {
        size_t bytes = character(at, length);
        if (bytes == 0)
            buffer_format(buffer, "\\ufffd"); /* JSON has no room for what is not UTF-8 */
        else if (*at == '"' || *at == '\\')
            buffer_format(buffer, "\\%c", *at);
        else if (*at < 0x20)
            buffer_format(buffer, "\\u%04x", (unsigned)*at);
        else
            buffer_add(buffer, at, bytes);
        if (bytes == 0) bytes = 1;
        at += bytes;
        length -= bytes;
    }
    buffer_add(buffer, "\"", 1);
}

/* ── the connection ── */

static const char *address; /* AWS_LAMBDA_RUNTIME_API: host:port */
static int connection = -1;
static struct {
    char data[64 * 1024];
    size_t at, end;
} input; /* read from the connection, and not looked at yet */

/* connect() that a signal interrupts goes on by itself; calling it again is an error. */
static int connected(int fd, const struct sockaddr *to, socklen_t length) {
    if (connect(fd, to, length) == 0) return 1;
    if (errno != EINTR) return 0;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    while (poll(&wait, 1, -1) < 0)
        if (errno != EINTR) return 0;
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0) errno = error;
    return errno == 0;
}

static void open_connection(void) {
    const char *colon = strrchr(address, ':');
    char host[256];
    if (colon == NULL || (size_t)(colon - address) >= sizeof host) die("AWS_LAMBDA_RUNTIME_API is not host:port: %s", address);
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = '\0';

    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    int failure = getaddrinfo(host, colon + 1, &hints, &found);
    if (failure != 0) die("cannot find %s: %s", address, gai_strerror(failure));
    for (struct addrinfo *to = found; to != NULL && connection < 0; to = to->ai_next) {
        int fd = socket(to->ai_family, to->ai_socktype, to->ai_protocol);
        if (fd < 0) continue;
        if (connected(fd, to->ai_addr, to->ai_addrlen)) {
            connection = fd;
        } else {
            int why = errno;
            close(fd);
            errno = why;
        }
    }
    if (connection < 0) die("cannot connect to %s: %s", address, strerror(errno));
    freeaddrinfo(found);
    int yes = 1;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* the end of a request waits for no acknowledgement */
    fcntl(connection, F_SETFD, FD_CLOEXEC); /* programs that the function starts have no part in it */
}

static void close_connection(void) {
    close(connection);
    connection = -1;
    input.at = input.end = 0;
}

static void send_request(const struct buffer *head, const struct buffer *body) {
    struct iovec parts[2] = {{head->data, head->length}, {body->data, body->length}}, *part = parts;
    int left = 2;
    while (left > 0) {
        ssize_t written = writev(connection, part, left);
        if (written < 0) {
            if (errno == EINTR) continue;
            if (errno == EPIPE || errno == ECONNRESET) return; /* it may have said why before it hung up: read that */
            die("cannot write to the Runtime API: %s", strerror(errno));
        }
        size_t done = (size_t)written;
        while (left > 0 && done >= part->iov_len) {
            done -= part->iov_len;
            part++;
            left--;
        }
        if (left > 0) {
            part->iov_base = (char *)part->iov_base + done;
            part->iov_len -= done;
        }
    }
}

static void fill_input(void) {
    ssize_t count;
    do count = recv(connection, input.data, sizeof input.data, 0);
    while (count < 0 && errno == EINTR);
    if (count < 0 && errno != ECONNRESET) die("cannot read from the Runtime API: %s", strerror(errno));
    if (count <= 0) die("the Runtime API closed the connection");
    input.at = 0;
    input.end = (size_t)count;
}

/* ── a reply ── */

static struct buffer head; /* the status line and the fields, each a string; an empty one is the last */
static struct buffer body;

/* Adds the next line to `lines` as a string of its own, and returns it. */
static const char *read_line(struct buffer *lines) {
    size_t begin = lines->length;
    for (;;) {
        if (input.at == input.end) fill_input();
        char byte = input.data[input.at++];
        if (byte == '\n') break;
        buffer_add(lines, &byte, 1);
        if (lines->length > HEAD_LIMIT) die("the head of a reply is longer than %d bytes", HEAD_LIMIT);
    }
    while (lines->length > begin && strchr(" \t\r", lines->data[lines->length - 1]) != NULL) lines->length--;
    buffer_add(lines, "", 1);
    return lines->data + begin;
}

static void read_body(size_t length) {
    make_room(&body, length);
    while (length > 0) {
        if (input.at == input.end) fill_input();
        size_t part = input.end - input.at < length ? input.end - input.at : length;
        buffer_add(&body, input.data + input.at, part);
        input.at += part;
        length -= part;
    }
}

/* The value of a header field of the reply; NULL if it is not there. Names have no case. */
static const char *field(const char *name) {
    size_t length = strlen(name);
    for (const char *line = head.data; *line != '\0'; line += strlen(line) + 1) {
        if (strncasecmp(line, name, length) != 0 || line[length] != ':') continue;
        const char *value = line + length + 1;
        return value + strspn(value, " \t");
    }
    return NULL;
}

/* A length that ends with the text, or with one of `ends`. */
static size_t number(const char *text, int base, const char *ends) {
    size_t digits = strspn(text, base == 16 ? "0123456789abcdefABCDEF" : "0123456789");
    errno = 0;
    unsigned long long value = strtoull(text, NULL, base);
    if (digits == 0 || strcspn(text + digits, ends) != 0 || errno != 0 || value > SIZE_MAX) die("not a length: %s", text);
    return (size_t)value;
}

/* AWS's emulator sends larger events so. */
static void read_chunks(void) {
    struct buffer line = {0};
    size_t length;
    do {
        line.length = 0;
        length = number(read_line(&line), 16, "; \t"); /* extensions may follow it */
        read_body(length);
        if (length > 0 && *read_line(&line) != '\0') die("a chunk does not end where it should");
    } while (length > 0);
    while (*read_line(&line) != '\0') {} /* trailers */
    free(line.data);
}

/* Sends a request and reads its reply into `head` and `body`; returns the status. */
static int ask(const struct buffer *request, const struct buffer *sent) {
    if (connection < 0) open_connection();
    send_request(request, sent);
    int status;
    do { /* 1xx: the reply proper is still to come */
        head.length = 0;
        const char *line = read_line(&head);
        if (sscanf(line, "HTTP/1.%*1d %3d", &status) != 1) die("not a status line: %s", line);
        while (*read_line(&head) != '\0') {}
    } while (status < 200);
    body.length = 0;
    const char *coding = field("Transfer-Encoding"), *length = field("Content-Length"), *option = field("Connection");
    if (coding != NULL && strcasecmp(coding, "chunked") != 0) die("a reply with Transfer-Encoding: %s", coding);
    if (coding == NULL && length == NULL) die("a reply of unknown length");
    if (coding != NULL)
        read_chunks();
    else
        read_body(number(length, 10, ""));
    if (option != NULL && strcasecmp(option, "close") == 0) close_connection();
    return status;
}

/* ── the runtime ── */

long long remaining_ms(const struct context *context) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return context->deadline_ms - ((long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

/* Asks for the next event: it is in `body` then, and what `context` points to in `head`. Returns the invocation's own id. */
static const char *next_event(struct context *context) {
    struct buffer request = {0};
    buffer_format(&request, "GET " BASE "next HTTP/1.1\r\nHost: %s\r\n\r\n", address);
    int status = ask(&request, &(struct buffer){0});
    free(request.data);
    if (status != 200) die("asked for an event and got %d: %s", status, body.data);

    const char *deadline = field("Lambda-Runtime-Deadline-Ms");
    *context = (struct context){
        .request_id = field("Lambda-Runtime-Aws-Request-Id"),
        .function_arn = field("Lambda-Runtime-Invoked-Function-Arn"),
        .trace_id = field("Lambda-Runtime-Trace-Id"),
        .client_context = field("Lambda-Runtime-Client-Context"),
        .cognito_identity = field("Lambda-Runtime-Cognito-Identity"),
        .tenant_id = field("Lambda-Runtime-Aws-Tenant-Id"),
        .deadline_ms = deadline != NULL ? strtoll(deadline, NULL, 10) : 0,
    };
    if (context->request_id == NULL) die("got an event without a request id");
    return field("Lambda-Runtime-Invocation-Id");
}

/* Posts the answer, or the error if there is an error type. */
static void post(const char *request_id, const char *invocation_id, const char *error_type, const struct buffer *answer) {
    struct buffer request = {0}, error = {0};
    const char *what = error_type == NULL ? "response" : "error";
    buffer_format(&request, "POST " BASE "%s/%s HTTP/1.1\r\nHost: %s\r\n", request_id, what, address);
    buffer_format(&request, "Content-Type: application/json\r\n");
    if (invocation_id != NULL) buffer_format(&request, "Lambda-Runtime-Invocation-Id: %s\r\n", invocation_id);
    if (error_type != NULL) {
        buffer_format(&request, "Lambda-Runtime-Function-Error-Type: ");
        for (const char *at = error_type; *at != '\0'; at++) buffer_add(&request, *at > ' ' && *at < 127 ? at : "?", 1);
        buffer_format(&request, "\r\n");
        buffer_format(&error, "{\"errorType\":");
        buffer_quote(&error, error_type, strlen(error_type));
        buffer_format(&error, ",\"errorMessage\":");
        buffer_quote(&error, answer->data, answer->length);
        buffer_format(&error, "}");
        answer = &error;
    }
    buffer_format(&request, "Content-Length: %zu\r\n\r\n", answer->length);
    int status = ask(&request, answer);
    if (status == 413)
        fprintf(stderr, "runtime: %zu bytes are too many: %s\n", answer->length, body.data); /* the caller has been told */
    else if (status != 202)
        die("posted the %s and got %d: %s", what, status, body.data);
    free(request.data);
    free(error.data);
}

/* Not SIG_IGN, which the programs that the function starts would inherit. */
static void nothing(int signal_number) {
    (void)signal_number;
}

int main(void) {
    struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    sigaction(SIGPIPE, &action, NULL); /* a peer that hangs up is an error of writev */
    setvbuf(stdout, NULL, _IOLBF, 0);  /* a pipe is buffered in blocks else, and a log that comes late is another invoke's */
    address = getenv("AWS_LAMBDA_RUNTIME_API");
    if (address == NULL) die("there is no AWS_LAMBDA_RUNTIME_API: this is a runtime, start it with sandbox invoke");

    struct buffer answer = {0};
    for (;;) {
        struct context context;
        const char *invocation_id = next_event(&context);
        if (context.trace_id != NULL)
            setenv("_X_AMZN_TRACE_ID", context.trace_id, 1);
        else
            unsetenv("_X_AMZN_TRACE_ID");
        answer.length = 0;
        const char *error_type = handler(body.data, body.length, &context, &answer);
        fflush(stdout);
        post(context.request_id, invocation_id, error_type, &answer);
    }
}
