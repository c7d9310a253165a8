// Nearly always within an rseq(2) critical section, in its first thread and in another.
#include "payload.h"
#include <linux/rseq.h>
#include <pthread.h>
#include <sys/rseq.h>

// Counts down from `n` in one go; false if the kernel has sent it elsewhere meanwhile.
static int in_one_go(long n) {
    struct rseq *own = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    int whole = 1;
    __asm__ volatile(
        ".pushsection .data.critical, \"aw\"\n"
        ".balign 32\n"
        "3: .long 0, 0\n"
        ".quad 1f, 2f - 1f, 4f\n"
        ".popsection\n"
        "leaq 3b(%%rip), %%rax\n"
        "movq %%rax, %[section]\n"
        "1: decq %[n]\n"
        "jnz 1b\n"
        "2: jmp 5f\n"
        // The signature, as part of an instruction that nobody executes.
        ".byte 0x0f, 0xb9, 0x3d\n"
        ".long 0x53053053\n"
        "4: movl $0, %[whole]\n"
        "5:\n"
        : [n] "+r"(n), [whole] "+m"(whole), [section] "=m"(own->rseq_cs)
        :
        : "rax", "memory", "cc");
    return whole;
}

static void *always(void *nothing) {
    for (;;) in_one_go(300000);
    return nothing;
}

int main(int argc, char **argv) {
    begin(argc, argv, 3000);
    check("registered", __rseq_size > 0, 1);
    pthread_t other;
    pthread_create(&other, NULL, always, NULL);
    uint64_t x = 1;
    for (int step = 1; step <= steps; step++) {
        while (!in_one_go(300000)) {}
        x = x * 6364136223846793005u + step;
        say("step %d %016llx", step, (unsigned long long)x);
    }
    return finish(0);
}
