// What every C payload shares: an output file opened once and kept open, whole lines written at
// once, a running checksum over them, and work that takes time without depending on it.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int out_fd = -1;
static int steps;
static uint64_t line_sum = 0xcbf29ce484222325u;

static uint64_t fnv(uint64_t sum, const void *data, size_t len) {
    const unsigned char *p = data;
    while (len--) sum = (sum ^ *p++) * 0x100000001b3u;
    return sum;
}

// PROGRAM OUTPUT [STEPS]; STEPS also by environment.
__attribute__((unused)) static void begin(int argc, char **argv, int default_steps) {
    const char *n = argc > 2 ? argv[2] : getenv("STEPS");
    steps = n ? atoi(n) : default_steps;
    out_fd = open(argc > 1 ? argv[1] : "/dev/stdout", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (out_fd < 0) {
        perror("output");
        exit(2);
    }
}

__attribute__((unused, format(printf, 1, 2))) static void say(const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    line[len++] = '\n';
    line_sum = fnv(line_sum, line, len);
    for (int at = 0; at < len;) {
        ssize_t n = write(out_fd, line + at, len - at);
        if (n < 0 && errno != EINTR) exit(2);
        if (n > 0) at += n;
    }
}

// A wrong value shows as a line that the undisturbed run does not have.
__attribute__((unused)) static void check(const char *what, long is, long expected) {
    if (is == expected) say("%s ok", what);
    else say("%s WRONG: %ld, expected %ld (errno %d)", what, is, expected, errno);
}

__attribute__((unused)) static int finish(int status) {
    say("checksum %016llx", (unsigned long long)line_sum);
    return status;
}

__attribute__((unused)) static void *must(void *p) {
    if (p == NULL || p == MAP_FAILED) {
        perror("memory");
        exit(2);
    }
    return p;
}

__attribute__((unused)) static int ok(int result) {
    if (result < 0) {
        perror("setting up");
        exit(2);
    }
    return result;
}

__attribute__((unused)) static void *shared(size_t len) {
    return must(mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

// Work of about `ms` milliseconds on one core, never the clock's business.
__attribute__((unused)) static uint64_t churn(uint64_t x, int ms) {
    x |= 1;
    for (long i = 0; i < ms * 500000L; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

// Sleeps it all, whatever interrupts.
__attribute__((unused)) static void nap(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) < 0 && errno == EINTR) {}
}
