// Two halves of the measurement of event streams, in C so that they cost little beside what is measured.
//
//   streams client   opens streams and counts the marks ('~') that arrive. Commands, one a line, each answered by one line:
//                      open PORT COUNT SPREAD PREFIX SUFFIX TOKEN   GET PREFIX{1..SPREAD}SUFFIX, COUNT times  -> opened
//                      expect COUNT   -> armed, and when so many marks have come: done LAST_MS BYTES
//                      close          -> closed
//   streams floor    a server that answers any request with the head of an event stream, and writes one prepared chunk to
//                    every stream: what the kernel itself needs. Says its port, then for each line: sent FIRST_MS CPU_US
//
// Times are CLOCK_MONOTONIC in milliseconds, which is also process.hrtime().
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// From one address to one port there are some 28,000 connections, those that were closed a moment ago included.
enum { STREAMS_MAX = 60000, PENDING_MAX = 64, BATCH = 256, SOURCES = 8 };

static int poller;
static int stream_fds[STREAMS_MAX], stream_count;
static char is_open[STREAMS_MAX * 2];

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double cpu_us(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static void watch(int fd, unsigned events) {
  struct epoll_event e = {.events = events, .data.fd = fd};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e) < 0) epoll_ctl(poller, EPOLL_CTL_MOD, fd, &e);
}

static void say(const char *line) {
  puts(line);
  fflush(stdout);
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

// Reads one line of standard input; ends the program when there is no more.
static void read_command(char *line, int size) {
  int length = 0;
  char c;
  for (;;) {
    if (read(0, &c, 1) != 1) exit(0);
    if (c == '\n') break;
    if (length < size - 1) line[length++] = c;
  }
  line[length] = 0;
}

static struct {
  int port, wanted, spread, first, opened, started;
  char prefix[128], suffix[128], token[256];
} job;
static long marks_wanted, marks, bytes;

static void connect_more(void) {
  while (job.started < job.wanted && job.started - job.opened < PENDING_MAX) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) fail("socket");
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK + job.started % SOURCES)}};
    int on = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0) fail("bind");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(job.port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
    char request[1024];
    int length = snprintf(request, sizeof request, "GET %s%d%s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n\r\n",
                          job.prefix, job.started % job.spread + 1, job.suffix, job.token);
    if (write(fd, request, length) != length) fail("write");
    is_open[fd] = 0;
    stream_fds[stream_count++] = fd;
    watch(fd, EPOLLIN);
    job.started++;
  }
}

static void take_command(void) {
  char line[1024];
  read_command(line, sizeof line);
  if (sscanf(line, "open %d %d %d %127s %127s %255s", &job.port, &job.wanted, &job.spread, job.prefix, job.suffix, job.token) == 6) {
    job.opened = job.started = 0;
    connect_more();
  } else if (sscanf(line, "expect %ld", &marks_wanted) == 1) {
    marks = bytes = 0;
    say("armed");
  } else if (!strcmp(line, "close")) {
    for (int n = 0; n < stream_count; n++) close(stream_fds[n]);
    stream_count = 0;
    say("closed");
  }
}

static void take_bytes(int fd) {
  static char buffer[65536];
  int length = read(fd, buffer, sizeof buffer);
  if (length <= 0) {
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
    return;
  }
  if (!is_open[fd]) {
    if (strncmp(buffer, "HTTP/1.1 200", 12)) {
      fprintf(stderr, "%.*s\n", length, buffer);
      exit(1);
    }
    is_open[fd] = 1;
    job.opened++;
    if (job.opened == job.wanted) say("opened");
    connect_more();
  }
  bytes += length;
  long before = marks;
  for (char *at = buffer, *end = buffer + length; (at = memchr(at, '~', end - at)); at++) marks++;
  if (marks_wanted > 0 && before < marks_wanted && marks >= marks_wanted) {
    printf("done %.4f %ld\n", now_ms(), bytes);
    fflush(stdout);
  }
}

static void run_client(void) {
  struct epoll_event events[BATCH];
  watch(0, EPOLLIN);
  for (;;) {
    int count = epoll_wait(poller, events, BATCH, -1);
    for (int n = 0; n < count; n++) {
      if (events[n].data.fd == 0) take_command();
      else take_bytes(events[n].data.fd);
    }
  }
}

static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

static void broadcast(void) {
  char line[64], frame[512], chunk[640], text[161];
  read_command(line, sizeof line);
  memset(text, 'x', 160);
  text[160] = 0;
  int length = snprintf(frame, sizeof frame, "id: 123456\nevent: tool-use\ndata: {\"text\":\"%s~\"}\n\n", text);
  length = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", length, frame);
  double first = now_ms(), cpu = cpu_us();
  for (int n = 0; n < stream_count; n++) if (write(stream_fds[n], chunk, length) != length) fail("write");
  printf("sent %.4f %.0f\n", first, cpu_us() - cpu);
  fflush(stdout);
}

static void run_floor(void) {
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof at;
  if (bind(listener, (struct sockaddr *)&at, size) < 0 || listen(listener, 4096) < 0) fail("listen");
  getsockname(listener, (struct sockaddr *)&at, &size);
  printf("%d\n", ntohs(at.sin_port));
  fflush(stdout);
  struct epoll_event events[BATCH];
  watch(0, EPOLLIN);
  watch(listener, EPOLLIN);
  for (;;) {
    int count = epoll_wait(poller, events, BATCH, -1);
    for (int n = 0; n < count; n++) {
      int fd = events[n].data.fd;
      char request[4096];
      if (fd == 0) broadcast();
      else if (fd == listener) {
        int made = accept(listener, NULL, NULL);
        setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(made, EPOLLIN);
      } else if (read(fd, request, sizeof request) > 0) {
        if (write(fd, HEAD, sizeof HEAD - 1) < 0) fail("write");
        stream_fds[stream_count++] = fd;
      } else {
        for (int k = 0; k < stream_count; k++) if (stream_fds[k] == fd) stream_fds[k] = stream_fds[--stream_count];
        close(fd);
      }
    }
  }
}

static void allow_descriptors(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv) {
  allow_descriptors();
  poller = epoll_create1(0);
  if (argc > 1 && !strcmp(argv[1], "floor")) run_floor();
  else run_client();
}
