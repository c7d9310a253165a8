#!/usr/bin/perl
# Sorting, hashing, a forked child and a pipe per step, an alarm that keeps coming.
use strict;
use warnings;
use IO::Handle;
use POSIX ();

open(my $out, '>', $ARGV[0]) or die "output: $!";
$out->autoflush(1);
my $steps = $ARGV[1] // $ENV{STEPS} // 40;
my ($sum, $alarms) = (1, 0);
my %seen;
$SIG{ALRM} = sub { $alarms++; POSIX::alarm(1) };
alarm 1;
for my $step (1 .. $steps) {
    my @values = map { ($_ * 7919 * $step) % 10007 } 1 .. 60000;
    $seen{$_ % 997}++ for @values;
    my @sorted = sort { $a <=> $b } @values;
    $sum = ($sum * 31 + $sorted[$_ * 100]) % 1000003 for 0 .. 100;
    pipe(my $from, my $to) or die "pipe: $!";
    my $child = fork() // die "fork: $!";
    if ($child == 0) {
        my $x = $sum;
        $x = ($x * 69069 + 5) % 4294967296 for 1 .. 300000;
        syswrite($to, "$x\n");
        POSIX::_exit($step % 5);
    }
    close $to;
    my $reply;
    # Perl restarts no read by itself when a handler ran.
    1 while !defined($reply = <$from>) && $!{EINTR};
    chomp $reply;
    1 while waitpid($child, 0) < 0 && $!{EINTR};
    my $status = $? >> 8;
    my $keys = join ',', (sort { $a <=> $b } keys %seen)[0 .. 3];
    $sum = ($sum + $reply) % 1000003;
    print $out "step $step reply $reply status $status keys $keys sum $sum\n";
}
alarm 0;
print $out "checksum $sum ", scalar(keys %seen), "\n";
