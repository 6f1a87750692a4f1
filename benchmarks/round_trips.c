/* A handler for bootstrap/c/runtime.c. The event is a number: so many round trips to the Runtime API, one after the other over
 * one kept-alive connection of its own; the answer is what each took, in ns. What it asks for does not exist: the shortest way
 * through the host. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

static int dial(const char *api) {
    char *host = strdup(api), *colon = strchr(host, ':');
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    *colon = 0;
    inet_aton(host, &to.sin_addr);
    free(host);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Reads one reply, of less than 4 KB. Returns -1 if none comes. */
static int reply(int fd) {
    char text[4096];
    size_t have = 0;
    for (;;) {
        ssize_t n = read(fd, text + have, sizeof text - 1 - have);
        if (n <= 0) return -1;
        have += n;
        text[have] = 0;
        char *end = strstr(text, "\r\n\r\n"), *field = strcasestr(text, "\r\ncontent-length:");
        if (end && have >= (size_t)(end + 4 - text) + (field && field < end ? strtoul(field + 17, NULL, 10) : 0)) return 0;
    }
}

const char *handler(const char *event, size_t length, const struct context *context, struct buffer *answer) {
    static const char ask[] = "GET /2018-06-01/runtime/nothing HTTP/1.1\r\nHost: api\r\n\r\n";
    int fd = dial(getenv("AWS_LAMBDA_RUNTIME_API"));
    struct timespec before, after;
    (void)length, (void)context;
    buffer_format(answer, "[0");
    for (long left = atol(event); fd >= 0 && left > 0; left--) {
        clock_gettime(CLOCK_MONOTONIC, &before);
        if (write(fd, ask, sizeof ask - 1) != sizeof ask - 1 || reply(fd)) { close(fd); fd = -1; }
        clock_gettime(CLOCK_MONOTONIC, &after);
        buffer_format(answer, ",%ld", (after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec);
    }
    buffer_format(answer, "]");
    if (fd < 0) return "Benchmark.NoConnection";
    close(fd);
    return NULL;
}
