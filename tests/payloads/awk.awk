# awk -f awk.awk OUTPUT: long arrays, and a command read through a pipe each step.
BEGIN {
    out = ARGV[1]
    steps = ARGC > 2 ? ARGV[2] : "STEPS" in ENVIRON ? ENVIRON["STEPS"] : 40
    sum = 1
    for (step = 1; step <= steps; step++) {
        for (i = 0; i < 120000; i++) {
            x = (x * 16807 + step) % 2147483647
            table[i % 5003] += x % 13
        }
        command = "seq " step " " (step * 20) " | tail -n 3"
        last = ""
        while ((command | getline line) > 0) last = last " " line
        close(command)
        for (i = 0; i < 5003; i++) sum = (sum * 31 + table[i]) % 1000003
        print "step", step, x, last, sum > out
        fflush(out)
    }
    print "checksum", sum > out
    exit 4
}
