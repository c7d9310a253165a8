// What a process is besides its memory and files: groups, privileges, attributes; and a file that it
// reads by stdin. All of it must be at the end as at the beginning.
#include "payload.h"
#include <grp.h>
#include <sys/prctl.h>

static int wanted(const char *name) {
    const char *value = getenv("WITH");
    return value && strstr(value, name);
}

static long locked_kib(void) {
    char line[256];
    long kib = -1;
    FILE *status = must(fopen("/proc/self/status", "r"));
    while (fgets(line, sizeof line, status)) sscanf(line, "VmLck: %ld", &kib);
    fclose(status);
    return kib;
}

// Whether new memory is locked, and whether it is there before it is touched.
static void check_locking(int lazily) {
    size_t len = 64 * 4096;
    long before = locked_kib();
    char *p = must(mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    check("new memory is locked", locked_kib() - before, len / 1024);
    unsigned char there[64];
    ok(mincore(p, len, there));
    check("it is there", there[32] & 1, !lazily);
    ok(munmap(p, len));
}

int main(int argc, char **argv) {
    begin(argc, argv, 40);
    gid_t groups[2][64];
    int count = ok(getgroups(64, groups[0]));
    gid_t gid = getgid();
    int lazily = wanted("onfault");
    if (wanted("undumpable")) ok(prctl(PR_SET_DUMPABLE, 0));
    if (wanted("mlock")) ok(mlockall(MCL_FUTURE | (lazily ? MCL_ONFAULT : 0)));
    int dumpable = prctl(PR_GET_DUMPABLE);
    for (int step = 0; step < steps; step++) {
        char byte = '-';
        if (wanted("stdin")) check("a byte of stdin", read(0, &byte, 1), 1);
        say("step %d %c", step, byte);
        nap(30);
    }
    // A user namespace has no numbers for an ordinary user's other groups: what counts is that the
    // kernel knows them.
    check("the number of groups", getgroups(64, groups[1]), count);
    if (wanted("file")) check("the group's file", open("group's", O_RDONLY) >= 0, 1);
    else check("the groups", memcmp(groups[0], groups[1], count * sizeof(gid_t)), 0);
    check("the group", getgid(), gid);
    check("dumpable", prctl(PR_GET_DUMPABLE), dumpable);
    if (wanted("mlock")) check_locking(lazily);
    if (wanted("chown")) check("chown", chown(argv[1], 1, 1), 0);
    return finish(0);
}
