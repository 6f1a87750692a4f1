/* The smallest runtime that is one: a blocking loop over one kept-alive connection; the answer is the event.
 * With PRINT set, it prints a line for each event. Build: cc -O2 -o build/bootstrap runtime.c */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int fd;
static char *buffer;
static size_t room = 1 << 16, have;

/* Reads one reply; returns its body and its length. */
static char *reply(size_t *length) {
    have = 0;
    for (;;) {
        if (room - have < 4096) buffer = realloc(buffer, room *= 2);
        ssize_t n = read(fd, buffer + have, room - have - 1);
        if (n <= 0) exit(0);
        have += n;
        buffer[have] = 0;
        char *end = strstr(buffer, "\r\n\r\n");
        if (!end) continue;
        char *field = strcasestr(buffer, "\r\ncontent-length:");
        *length = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
        while (have < (size_t)(end + 4 - buffer) + *length) {
            size_t at = end - buffer;
            if (room - have < *length) buffer = realloc(buffer, room += *length);
            end = buffer + at;
            n = read(fd, buffer + have, room - have - 1);
            if (n <= 0) exit(0);
            have += n;
        }
        return end + 4;
    }
}

int main(void) {
    char *api = strdup(getenv("AWS_LAMBDA_RUNTIME_API")), *colon = strchr(api, ':');
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    int one = 1, print = getenv("PRINT") != NULL;
    char next[256], head[1024], id[64];
    *colon = 0;
    inet_aton(api, &to.sin_addr);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); return 1; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    buffer = malloc(room);
    int asks = snprintf(next, sizeof next, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: %s\r\n\r\n", api);
    for (;;) {
        size_t length;
        if (write(fd, next, asks) != asks) return 0;
        char *body = reply(&length), *field = strcasestr(buffer, "\r\nlambda-runtime-aws-request-id:");
        if (!field) return 1;
        for (field += 32; *field == ' '; field++) {}
        size_t n = strcspn(field, "\r");
        snprintf(id, sizeof id, "%.*s", (int)n, field);
        if (print) dprintf(1, "an event of %zu bytes for %s\n", length, id);
        int size = snprintf(head, sizeof head,
                            "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\n\r\n",
                            id, api, length);
        struct iovec parts[2] = {{head, size}, {body, length}};
        ssize_t sent = writev(fd, parts, 2);
        for (size_t all = size + length, at = sent; sent > 0 && at < all; at += sent)
            sent = write(fd, body + (at - size), all - at);
        reply(&length);
    }
}
