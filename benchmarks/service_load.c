/* An HTTP client for measurements: so many kept-alive connections, each with one POST at a time. It checks statuses and counts
 * bytes, no more. Prints one JSON line.
 * Usage: service_load PORT PATH CONNECTIONS SECONDS GAP_US BODY_BYTES [ANSWERS [HEADER STATUS]]; it ends after so many answers,
 * too. HEADER: one more, as "Name: value"; STATUS: the one that is good then, instead of 200. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4000000, CHUNKED = -2, HEAD = -1, EVENTS = 256 };

struct connection {
    int fd;
    char *text;
    size_t have, room, sent;
    long need; /* bytes of the whole answer, HEAD as long as nobody knows, or CHUNKED */
    int bad;
    double began, due;
};

static char *request;
static size_t length;
static int events, ring, good = 200;
static long throttled, failed, functions;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *why) {
    fprintf(stderr, "service_load: %s\n", why);
    exit(1);
}

static void watch(struct connection *c, int how, int what) {
    struct epoll_event e = {.events = what, .data.ptr = c};
    if (epoll_ctl(events, how, c->fd, &e)) die(strerror(errno));
}

static void put(struct connection *c) {
    int waited = c->sent > 0;
    while (c->sent < length) {
        ssize_t n = send(c->fd, request + c->sent, length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) die(strerror(errno));
        if (n < 0) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        c->sent += n;
    }
    if (waited) watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void ask(struct connection *c) {
    c->have = c->sent = 0;
    c->need = HEAD;
    c->bad = 0;
    c->began = now();
    put(c);
}

static void head(struct connection *c) {
    char *end = strstr(c->text, "\r\n\r\n");
    if (!end) return;
    int status = atoi(c->text + 9);
    *end = 0;
    char *field = strcasestr(c->text, "\r\ncontent-length:");
    c->need = field ? (long)(end + 4 - c->text) + atol(field + 17)
              : strcasestr(c->text, "\r\ntransfer-encoding: chunked") ? CHUNKED : (long)(end + 4 - c->text);
    int function = strcasestr(c->text, "\r\nx-amz-function-error:") != NULL;
    c->bad = status != good || function;
    throttled += status == 429;
    failed += status != good && status != 429;
    functions += function;
    *end = '\r';
}

/* Whether the answer is whole. */
static int get(struct connection *c) {
    for (;;) {
        if (c->room - c->have < (1 << 16)) c->text = realloc(c->text, c->room *= 2);
        ssize_t n = recv(c->fd, c->text + c->have, c->room - c->have - 1, 0);
        if (n < 0 && errno == EAGAIN) return 0;
        if (n <= 0) die("the server has closed a connection");
        c->text[c->have += n] = 0;
        if (c->need == HEAD) head(c);
        if (c->need == CHUNKED ? c->have > 5 && !memcmp(c->text + c->have - 5, "0\r\n\r\n", 5)
                               : c->need >= 0 && (long)c->have >= c->need)
            return 1;
    }
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void arm(double at) {
    double left = at - now();
    long ns = left > 1e-6 ? left * 1e9 : 1000;
    struct itimerspec when = {.it_value = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}};
    timerfd_settime(ring, 0, &when, NULL);
}

int main(int argc, char **argv) {
    if (argc < 7 || argc == 9 || argc > 10) die("PORT PATH CONNECTIONS SECONDS GAP_US BODY_BYTES [ANSWERS [HEADER STATUS]]");
    int port = atoi(argv[1]), count = atoi(argv[3]), one = 1, waiting = 0, first = 0;
    double seconds = atof(argv[4]), gap = atof(argv[5]) * 1e-6;
    long body = atol(argv[6]), answers = argc > 7 ? atol(argv[7]) : MOST;
    const char *header = argc > 9 ? argv[8] : "", *after = argc > 9 ? "\r\n" : "";
    if (argc > 9) good = atoi(argv[9]);
    request = malloc(body + strlen(header) + 4096);
    length = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %ld\r\n%s%s\r\n",
                     argv[2], port, body, header, after);
    memset(request + length, 'x', body); /* {"k":"xxx…"} */
    memcpy(request + length, "{\"k\":\"", 6);
    memcpy(request + length + body - 2, "\"}", 2);
    length += body;
    events = epoll_create1(0);
    ring = timerfd_create(CLOCK_MONOTONIC, 0);
    struct epoll_event got[EVENTS], timer = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(events, EPOLL_CTL_ADD, ring, &timer);
    struct connection *all = calloc(count, sizeof *all), **queue = calloc(count, sizeof *queue);
    float *took = malloc(sizeof(float) * MOST);
    for (int i = 0; i < count; i++) {
        struct connection *c = all + i;
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
        inet_aton("127.0.0.1", &to.sin_addr);
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (void *)&to, sizeof to)) die(strerror(errno));
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        c->text = malloc(c->room = 1 << 17);
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
    long n = 0, open = count;
    double start = now(), end = start + seconds;
    for (int i = 0; i < count; i++) ask(all + i);
    while (open) {
        int ready = epoll_wait(events, got, EVENTS, 60000);
        if (ready == 0) die("no answer within a minute");
        for (int i = 0; i < ready; i++) {
            struct connection *c = got[i].data.ptr;
            if (!c) {
                unsigned long long rings;
                if (read(ring, &rings, sizeof rings) < 0) continue;
                for (; waiting && queue[first]->due <= now(); waiting--, first = (first + 1) % count) {
                    if (now() < end) ask(queue[first]);
                    else open--;
                }
                if (waiting) arm(queue[first]->due);
                continue;
            }
            if (got[i].events & EPOLLOUT) put(c);
            if (!(got[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || !get(c)) continue;
            double at = now();
            if (!c->bad && n < MOST) took[n++] = (at - c->began) * 1e6;
            if (at >= end || n >= answers) open--;
            else if (gap > 0) {
                c->due = at + gap;
                queue[(first + waiting++) % count] = c;
                if (waiting == 1) arm(c->due);
            } else ask(c);
        }
    }
    double took_all = now() - start;
    if (n == 0) printf("{\"count\": 0, ");
    else {
        qsort(took, n, sizeof *took, by_size);
        printf("{\"count\": %ld, \"rate\": %.1f, \"p50\": %.1f, \"p99\": %.1f, ", n, n / took_all, took[n / 2],
               took[(long)(n * 0.99)]);
    }
    printf("\"throttled\": %ld, \"failed\": %ld, \"functions\": %ld}\n", throttled, failed, functions);
}
