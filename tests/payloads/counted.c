// A job whose size is known to the byte: MIB of random numbers and as much of nothing, THREADS more
// threads, PROCESSES children and AREAS memory areas, all of which do nothing while the first thread
// sleeps through its steps.
#include "payload.h"
#include <pthread.h>
#include <signal.h>

static int wanted(const char *name) {
    const char *value = getenv(name);
    return value ? atoi(value) : 0;
}

static void *idle(void *nothing) {
    for (;;) pause();
    return nothing;
}

static char *memory(size_t len) {
    char *at = must(mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ok(madvise(at, len, MADV_NOHUGEPAGE));
    return at;
}

int main(int argc, char **argv) {
    begin(argc, argv, 1000000);
    int processes = wanted("PROCESSES"), areas = wanted("AREAS");
    pid_t children[256];
    for (int i = 0; i < processes; i++)
        if ((children[i] = ok(fork())) == 0) idle(NULL);
    for (int i = 0; i < wanted("THREADS"); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, idle, NULL)) exit(2);
    }
    char *split = memory((size_t)(areas + 1) * 4096);
    for (int i = 0; i < areas; i++) {
        split[(size_t)i * 4096] = 1;
        // Every other one is of another kind, so that they do not melt into one.
        if (i % 2) ok(mprotect(split + (size_t)i * 4096, 4096, PROT_READ));
    }
    size_t len = (size_t)wanted("MIB") << 20;
    uint64_t *random = (uint64_t *)memory(2 * len + 4096), state = 88172645463325252u;
    for (size_t i = 0; i < len / 8; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        random[i] = state;
        random[len / 8 + i] = 0;
    }
    for (int i = 1; i <= steps; i++) {
        say("step %d", i);
        nap(20);
    }
    for (int i = 0; i < processes; i++) kill(children[i], SIGKILL);
    return finish(0);
}
