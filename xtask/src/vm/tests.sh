#!/bin/bash
# Runs tests, each in a process of its own, a line for each:
#   @@test ok|FAILED|skipped SECONDS NAME[<tab>REASON]
# What a failed test wrote comes before its line.
#   run-tests LIMIT PATTERN TESTS…
# runs the tests that fit the pattern and one of TESTS, which are patterns too; LIMIT is that of one
# test, in seconds.
shopt -s extglob
limit=$1 pattern=$2
shift 2
export RESPAWN_BIN=/usr/sbin/respawn RESPAWN_SKIPS=/tmp/vm.skips RESPAWN_FIGURES=/tmp/vm.figures
failed=0

is_chosen() {
    local name=$1 tests
    shift
    # shellcheck disable=SC2053 # They are patterns.
    [[ $name == $pattern ]] || return
    for tests; do
        # shellcheck disable=SC2053
        [[ $name == $tests ]] && return
    done
    return 1
}

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
    local name=$1 begun=$EPOCHREALTIME status word reason
    : > "$RESPAWN_SKIPS"
    : > "$RESPAWN_FIGURES"
    timeout -k 5 "$limit" /vm/tests --exact "$name" > /tmp/vm.out 2> /tmp/vm.err < /dev/null
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
        tail -n 150 /tmp/vm.out
        tail -n 150 /tmp/vm.err
        clear_up
    else
        # What its programs wrote to stderr is no figure.
        sed 's/^/@@figure /' "$RESPAWN_FIGURES"
    fi
    printf '@@test %s %s %s\t%s\n' "$word" "$took" "$name" "$reason"
}

for test in $(/vm/tests --list --format terse 2> /dev/null | sed -n 's/: test$//p'); do
    is_chosen "$test" "$@" && run_one "$test"
done
exit "$failed"
