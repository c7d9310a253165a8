// Memory of which little changes in each step, in every way that memory can change: written to, by the
// kernel, too; given back, mapped anew, moved, exchanged, protected, grown, of huge pages, over a file, in a
// child and in threads. A page that a checkpoint takes for unchanged shows in the sum over all of it.
#include "payload.h"
#include <pthread.h>

enum { PAGE = 4096, MIB = 1 << 20, BIG = 24 * MIB, PART = 4 * MIB, CHILD = 20 * MIB };

static uint64_t state = 88172645463325252u;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static uint64_t sum_of(const void *area, size_t length) {
    uint64_t sums[8] = {1};
    for (const uint64_t *word = area, *end = word + length / 8; word < end; word += 8)
        for (int lane = 0; lane < 8; lane++) sums[lane] = (sums[lane] << 5) - sums[lane] + word[lane];
    return fnv(0, sums, sizeof sums);
}

static char *area_at(void *where, size_t length) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (where ? MAP_FIXED : 0);
    return must(mmap(where, length, PROT_READ | PROT_WRITE, flags, -1, 0));
}

static void fill(char *area, size_t length) {
    for (size_t at = 0; at < length; at += 8) *(uint64_t *)(area + at) = next();
}

static void scratch(char *area, size_t length, int pages) {
    while (pages--) *(uint64_t *)(area + next() % (length / 8) * 8) = next();
}

static void *write_in_thread(void *area) {
    *(uint64_t *)((char *)area + 5 * PAGE) += 0x1234567;
    return NULL;
}

// Changes a little of its own copy for each byte that comes, and answers with a sum.
static void child(char *area, int in, int out) {
    char byte;
    while (read(in, &byte, 1) == 1) {
        scratch(area, CHILD, 3);
        uint64_t sum = sum_of(area, CHILD);
        if (write(out, &sum, sizeof sum) != sizeof sum) exit(1);
    }
    exit(0);
}

int main(int argc, char **argv) {
    begin(argc, argv, 200);
    char *big = area_at(NULL, BIG), *one = area_at(NULL, PART), *two = area_at(NULL, PART);
    char *huge = area_at(NULL, 4 * MIB), *heap = sbrk(PART), *elsewhere = area_at(NULL, PART);
    madvise(huge, 4 * MIB, MADV_HUGEPAGE);
    fill(big, BIG), fill(one, PART), fill(two, PART), fill(huge, 4 * MIB), fill(heap, PART);
    char template[] = "file-XXXXXX";
    int file = ok(mkstemp(template));
    for (int i = 0; i < 64; i++) ok(write(file, big + i * PAGE, PAGE));
    char *over = must(mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0));
    // Nameless, and of no whole number of pages.
    char odd[] = "odd-XXXXXX";
    int nameless = ok(mkstemp(odd));
    ok(unlink(odd)), ok(write(nameless, big, 3 * PAGE + 10));
    int down[2], up[2];
    ok(pipe(down)), ok(pipe(up));
    pid_t pid = ok(fork());
    if (pid == 0) close(down[1]), close(up[0]), child(big, down[0], up[1]);
    close(down[0]), close(up[1]);
    size_t grown = PART;
    const char *with = getenv("WITH");
    int exact = with && !strcmp(with, "exact");
    for (int step = 0; step < steps; step++) {
        scratch(big, BIG, 20);
        ok(pread(file, big + next() % (BIG / PAGE) * PAGE, PAGE, next() % 64 * PAGE)); // by the kernel
        // One page more of the same: it is the only one that changes there.
        memset(big + 4 * MIB + step % 512 * PAGE, 0xff, PAGE);
        ok(pwrite(nameless, &state, sizeof state, next() % (3 * PAGE)));
        switch (next() % 10) {
        case 0: ok(madvise(big + next() % (BIG / PAGE - 16) * PAGE, 16 * PAGE, MADV_DONTNEED)); break;
        case 1: // the two change places: their pages are old, and not where they were
            must(mremap(one, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere));
            must(mremap(two, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, one));
            must(mremap(elsewhere, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, two));
            area_at(elsewhere, PART);
            break;
        case 2: // under a watch, what is mapped over does not become one with the rest: $WITH=exact moves both
            area_at((exact ? two : big) + MIB, MIB);
            break;
        case 3:
            ok(mprotect(one + MIB, MIB, PROT_READ));
            ok(mprotect(one + MIB, MIB, PROT_READ | PROT_WRITE));
            one[MIB + next() % MIB] ^= 1;
            break;
        case 4: scratch(huge, 4 * MIB, 2); break;
        case 5: over[next() % (64 * PAGE)] ^= 1; break;
        case 6:
            // Not if the C library has grown it meanwhile.
            if (grown < 4 * PART && sbrk(0) == heap + grown && sbrk(MIB) == heap + grown)
                fill(heap + grown, MIB), grown += MIB;
            break;
        case 7: {
            pthread_t thread;
            ok(-pthread_create(&thread, NULL, write_in_thread, one));
            ok(-pthread_join(thread, NULL));
            break;
        }
        case 8: { // a child that ends writes to what the two share
            pid_t other = ok(fork());
            if (other == 0) memset(two, 1, 8 * PAGE), _exit(0);
            scratch(two, 8 * PAGE, 2);
            while (waitpid(other, NULL, 0) < 0 && errno == EINTR) {}
            break;
        }
        default: memset(two + 2 * MIB, 0, 4 * PAGE); break;
        }
        uint64_t sum = sum_of(big, BIG) ^ sum_of(one, PART) << 1 ^ sum_of(two, PART) << 2 ^
                       sum_of(huge, 4 * MIB) << 3 ^ sum_of(heap, grown) << 4 ^ sum_of(over, 64 * PAGE) << 5;
        char tail[PAGE];
        sum ^= fnv(1, tail, ok(pread(nameless, tail, PAGE, 2 * PAGE + 100))) << 6;
        uint64_t other = 0;
        nap(20);
        ok(write(down[1], "x", 1));
        ok(read(up[0], &other, sizeof other));
        say("step %d %016llx %016llx", step, (unsigned long long)sum, (unsigned long long)other);
    }
    close(down[1]);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    unlink(template);
    return finish(0);
}
