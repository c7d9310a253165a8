// $MIB of mixed content: a quarter each random, smooth doubles, small integers, zeros. Every step
// rewrites and sums one slice; the end sums it all.
#include "payload.h"

enum { KINDS = 4 };

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void fill(uint64_t *words, size_t from, size_t to, size_t quarter, uint64_t seed) {
    uint64_t state = seed * 0x9e3779b97f4a7c15u + from + 1;
    for (size_t i = from; i < to; i++) {
        switch (i / quarter) {
        case 0: words[i] = next(&state); break;
        case 1: {
            double smooth = 1.0 + (double)(i - quarter) * 1e-6 + (double)seed;
            memcpy(&words[i], &smooth, 8);
            break;
        }
        case 2: words[i] = (i * 7 + seed) % 97; break;
        default: break; // never touched: zero, and mostly absent
        }
    }
}

static uint64_t sum_of(const uint64_t *words, size_t from, size_t to) {
    uint64_t sum = from;
    for (size_t i = from; i < to; i++) sum = (sum ^ words[i]) * 0x9e3779b97f4a7c15u + (sum >> 29);
    return sum;
}

int main(int argc, char **argv) {
    begin(argc, argv, 40);
    const char *mib = getenv("MIB");
    size_t len = (size_t)(mib ? atoi(mib) : 256) << 20, count = len / 8, quarter = count / KINDS;
    uint64_t *words = must(
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    fill(words, 0, count, quarter, 1);
    say("filled");
    size_t slice = count / steps / 4;
    for (int step = 0; step < steps; step++) {
        // A quarter of each step's stretch is new, the rest is as before.
        size_t from = (size_t)step * (count / steps);
        fill(words, from, from + slice, quarter, step + 2);
        uint64_t sum = sum_of(words, from, from + count / steps);
        say("step %d %016llx", step, (unsigned long long)(sum ^ churn(sum, 60)));
    }
    say("all %016llx", (unsigned long long)sum_of(words, 0, count));
    return finish(0);
}
