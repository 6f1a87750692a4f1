/* The smallest extension that is one: register, poll, poll again. INVOKE=1: it asks for INVOKE. TELEMETRY=1: it subscribes to
 * everything over HTTP and answers every batch at once, in a thread. Build: cc -O2 -pthread -o build/extension extension.c */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const OK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/* Reads one message with a Content-Length into buffer; returns 0 at the end of the connection. */
static int message(int fd, char *buffer, size_t room) {
    size_t have = 0, want = 0;
    char *end = NULL;
    for (;;) {
        ssize_t n = read(fd, buffer + have, room - have - 1);
        if (n <= 0) return 0;
        have += n;
        buffer[have] = 0;
        if (!end && (end = strstr(buffer, "\r\n\r\n"))) {
            char *field = strcasestr(buffer, "\r\ncontent-length:");
            want = end + 4 - buffer + (field && field < end ? strtoul(field + 17, NULL, 10) : 0);
            if (want >= room) return 0;
        }
        if (end && have >= want) return 1;
    }
}

static void *receive(void *argument) {
    static char buffer[1 << 21];
    int listener = *(int *)argument;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        while (fd >= 0 && message(fd, buffer, sizeof buffer))
            if (write(fd, OK, strlen(OK)) < 0) break;
        close(fd);
    }
}

int main(int argc, char **argv) {
    char buffer[1 << 16], id[64] = "", text[1024], body[512];
    const char *name = strrchr(argv[0], '/') + 1;
    char *api = strdup(getenv("AWS_LAMBDA_RUNTIME_API")), *colon = strchr(api, ':');
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))}, at = {.sin_family = AF_INET};
    int one = 1, listener, fd = socket(AF_INET, SOCK_STREAM, 0);
    (void)argc;
    *colon = 0;
    inet_aton(api, &to.sin_addr);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) return 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    const char *events = getenv("INVOKE") ? "{\"events\":[\"INVOKE\",\"SHUTDOWN\"]}" : "{\"events\":[\"SHUTDOWN\"]}";
    int n = snprintf(text, sizeof text,
                     "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: %s\r\nLambda-Extension-Name: %s\r\n"
                     "Content-Length: %zu\r\n\r\n%s", api, name, strlen(events), events);
    if (write(fd, text, n) != n || !message(fd, buffer, sizeof buffer)) return 1;
    char *field = strcasestr(buffer, "\r\nlambda-extension-identifier: ");
    if (!field) return 1;
    sscanf(field + 31, "%63[^\r]", id);
    if (getenv("TELEMETRY")) {
        socklen_t size = sizeof at;
        pthread_t thread;
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        listener = socket(AF_INET, SOCK_STREAM, 0);
        if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 8)) return 1;
        getsockname(listener, (struct sockaddr *)&at, &size);
        pthread_create(&thread, NULL, receive, &listener);
        int length = snprintf(body, sizeof body,
                              "{\"schemaVersion\":\"2022-12-13\",\"types\":[\"platform\",\"function\",\"extension\"],"
                              "\"buffering\":{\"timeoutMs\":25},\"destination\":{\"protocol\":\"HTTP\","
                              "\"URI\":\"http://sandbox.localdomain:%d\"}}", ntohs(at.sin_port));
        n = snprintf(text, sizeof text,
                     "PUT /2022-07-01/telemetry HTTP/1.1\r\nHost: %s\r\nLambda-Extension-Identifier: %s\r\n"
                     "Content-Length: %d\r\n\r\n%s", api, id, length, body);
        if (write(fd, text, n) != n || !message(fd, buffer, sizeof buffer)) return 1;
    }
    n = snprintf(text, sizeof text,
                 "GET /2020-01-01/extension/event/next HTTP/1.1\r\nHost: %s\r\nLambda-Extension-Identifier: %s\r\n\r\n", api, id);
    for (;;) {
        if (write(fd, text, n) != n || !message(fd, buffer, sizeof buffer)) return 1;
        if (strstr(buffer, "SHUTDOWN")) return 0;
    }
}
