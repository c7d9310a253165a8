# Tcl: its notifier thread, timers and file events, a coroutine, a lasting pipeline, exec.
set out [open [lindex $argv 0] w]
fconfigure $out -buffering line
set steps [expr {[llength $argv] > 1 ? [lindex $argv 1] : [info exists env(STEPS)] ? $env(STEPS) : 40}]
set sum 7
set cat [open "|cat" r+]
fconfigure $cat -buffering line -blocking 0

proc work {x rounds} {
    for {set i 0} {$i < $rounds} {incr i} {
        set x [expr {($x * 1103515245 + 12345) % 2147483648}]
    }
    return $x
}

coroutine numbers apply {{} {
    set n 1
    yield
    while 1 { yield [set n [work $n 20000]] }
}}

# One step an event: a timer asks, the pipeline's answer comes as a file event.
proc ask {step} {
    puts $::cat "[numbers] $step"
}

proc answer {} {
    if {[gets $::cat line] < 0} return
    lassign $line number step
    set ::sum [expr {([work $::sum 150000] + $number) % 1000003}]
    # Without "2>@" Tcl makes a file for stderr and removes it at once: a checkpoint in between is
    # rightly refused at a restart, as the file is gone.
    set listing [exec echo $::sum | tr 0-9 a-j 2>@ stderr]
    puts $::out "step $step number $number sum $::sum $listing"
    if {$step == $::steps} { set ::done 1 } else { after 5 ask [expr {$step + 1}] }
}

fileevent $cat readable answer
after 5 ask 1
vwait done
fconfigure $cat -blocking 1
close $cat
puts $out "checksum $sum"
close $out
