// For a while it holds something that no checkpoint can save: OBJECT=io_uring, or tcp (a
// connection to PORT, whose listener is outside the job). It goes on when OUTPUT.go is there.
#include "payload.h"
#include <arpa/inet.h>
#include <sys/socket.h>

static int open_object(void) {
    const char *kind = getenv("OBJECT"), *port = getenv("PORT");
    if (kind && strcmp(kind, "io_uring") == 0) {
        char parameters[256] = {0}; // struct io_uring_params is smaller, and not in every header
        return (int)syscall(425, 4, parameters);
    }
    int fd = ok(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port ? atoi(port) : 0)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, (struct sockaddr *)&to, sizeof to) ? -1 : fd;
}

int main(int argc, char **argv) {
    begin(argc, argv, 30);
    char go[4096];
    snprintf(go, sizeof go, "%s.go", argv[1]);
    uint64_t x = 1;
    for (int step = 0; step < steps; step++) {
        x = churn(x, 40);
        say("step %d %016llx", step, (unsigned long long)x);
        if (step != steps / 3) continue;
        int object = open_object();
        if (object < 0) {
            say("no such object here: errno %d", errno);
            return 2;
        }
        say("has it");
        while (access(go, F_OK) != 0) nap(5);
        close(object);
        say("has it no more");
    }
    return finish(0);
}
