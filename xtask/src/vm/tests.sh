#!/bin/bash
# Runs the tests whose names fit the pattern, each in a process of its own, a line for each:
#   @@test ok|FAILED|skipped SECONDS NAME[<tab>REASON]
# What a failed test wrote comes before its line. $1 is the pattern, $2 the limit of one test.
pattern=$1 limit=$2
export RESPAWN_BIN=/usr/sbin/respawn RESPAWN_SKIPS=/tmp/vm.skips
failed=0

processes() {
    local directory
    for directory in /proc/[0-9]*; do
        readlink "$directory/exe" > /dev/null && echo "${directory#/proc/}"
    done
}
before=" $(processes | paste -sd ' ') "

# What a failed test has left behind must not disturb the next one.
clear_up() {
    local pid
    for pid in $(processes); do
        [[ $before == *" $pid "* ]] || kill -9 "$pid" 2> /dev/null
    done
    rm -rf /sys/fs/bpf/respawn*
}

run_one() {
    local name=$1 program=$2 test=$3 begun=$EPOCHREALTIME status word reason
    : > "$RESPAWN_SKIPS"
    timeout -k 5 "$limit" "$program" --exact "$test" > /tmp/vm.out 2> /tmp/vm.err < /dev/null
    status=$?
    local took=$(((${EPOCHREALTIME/./} - ${begun/./}) / 1000))
    took=$((took / 1000)).$((took % 1000 / 100))
    reason=$(cut -f2- "$RESPAWN_SKIPS" | sort -u | paste -sd ';')
    if [[ $status == 124 || $status == 137 ]]; then
        word=FAILED reason="not at its end after $limit s"
    elif [[ $status != 0 ]]; then
        word=FAILED
    elif [[ -n $reason ]]; then
        word=skipped
    else
        word=ok
    fi
    if [[ $word == FAILED ]]; then
        failed=1
        tail -n 60 /tmp/vm.out
        tail -n 60 /tmp/vm.err
        clear_up
    else
        sed 's/^/    /' /tmp/vm.err
    fi
    printf '@@test %s %s %s\t%s\n' "$word" "$took" "$name" "$reason"
}

for program in /vm/tests/*; do
    suite=${program##*/}
    for test in $("$program" --list --format terse 2> /dev/null | sed -n 's/: test$//p'); do
        # shellcheck disable=SC2254 # It is a pattern.
        case $suite::$test in $pattern) run_one "$suite::$test" "$program" "$test" ;; esac
    done
done
exit "$failed"
