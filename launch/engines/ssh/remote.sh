#!/bin/sh
# The launcher's script on a machine that ssh reaches: it starts processes that outlive the connection, keeps their output and
# exit codes, and reports them. It needs a POSIX shell and Linux's /proc. It is in the folder of its job and works there:
#
#   N.log     the output of process N over all its starts, each after a line with its time
#   N.pid     number and start time of its keeper and of its own group; boot id and name of the machine; number of the start
#   N.rc      its exit code, and the machine's uptime in seconds when it ended
#   stop      present once a command has ended the job: no launcher restarts it
#   claims/   one folder per start, made by the launcher that may make it
#
# Exit codes: 0 done, 1 failed, 2 wrong use. Never 255, by which ssh reports a lost connection.

cd "$(dirname "$0")" || exit 1
job=$(pwd)

fail() { echo "$*" >&2; exit 1; }

# started PID: sets `since` to the process's start time in ticks after the boot; '' if there is no such process or it is dead
started() {
  since=
  { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 0
  stat=${stat##*") "}
  set -- $stat
  case $1 in Z|X) ;; *) since=${20} ;; esac
}

uptime_now() { read -r now _ < /proc/uptime; }

# look N: sets `state` to none (never started), running, ended (its children may still run), gone, or elsewhere (on another
# machine that shares this folder); and the numbers keeper, group
look() {
  state=none keeper= group= its_start=
  { read -r keeper keeper_since group group_since its_boot its_name its_start < "$1.pid"; } 2>/dev/null || return 0
  read -r boot < /proc/sys/kernel/random/boot_id
  if [ "$its_boot" != "$boot" ]; then
    state=gone
    [ "$its_name" = "$(hostname)" ] || state=elsewhere
    return 0
  fi
  started "$keeper"
  if [ "$since" = "$keeper_since" ]; then
    state=running
    [ ! -f "$1.rc" ] || state=ended
    return 0
  fi
  state=gone
  started "$group"  # its keeper was killed alone
  [ "$since" != "$group_since" ] || state=running
}

numbers() { for file in *.pid; do [ ! -f "$file" ] || echo "${file%.pid}"; done; }

# keep N START GRACE FOLDER COMMAND…: the keeper, which stays; it has a session of its own, and so has the command
keep() {
  me=$1 its_start=$2 grace=$3
  trap 'interrupted=1' TERM INT HUP  # a handler, because the command would inherit 'ignore'
  cd "$4" || exit 1
  shift 4
  echo "--- $(date +%Y-%m-%dT%H:%M:%S%z) process $me on $(hostname): $*"
  setsid "$@" &
  child=$!
  started $$
  mine=$since
  started "$child"
  read -r boot < /proc/sys/kernel/random/boot_id
  echo "$$ $mine $child ${since:-0} $boot $(hostname) $its_start" > "$job/$me.pid.new"
  mv "$job/$me.pid.new" "$job/$me.pid"
  code=
  while :; do
    interrupted=
    wait "$child"
    new=$?
    [ "$new" != 127 ] || [ -z "$code" ] || break  # some shells drop a child after the first wait that reports it
    code=$new
    [ -n "$interrupted" ] || break
  done
  uptime_now
  echo "$code $now" > "$job/$me.rc.new"
  mv "$job/$me.rc.new" "$job/$me.rc"
  end_group "$child" "$grace"
}

# end_group NUMBER GRACE: sends SIGTERM to the rest of the group, and SIGKILL after that many seconds
end_group() {
  kill -s TERM -- "-$1" 2>/dev/null || return 0
  tenths=$(($2 * 10))
  while [ "$tenths" -gt 0 ] && kill -s 0 -- "-$1" 2>/dev/null; do sleep 0.1; tenths=$((tenths - 1)); done
  kill -s KILL -- "-$1" 2>/dev/null
  return 0
}

# start N START GRACE FOLDER COMMAND…: returns once it runs in FOLDER, with the environment of this call
start() {
  look "$1"
  case $state in running|ended) fail "process $1 is still there" ;; esac
  rm -f "$1.pid" "$1.rc"
  cd "$4" || exit 1
  command -v "$5" >/dev/null || fail "'$5': no such program there; fix: name its folder with path=…"
  cd "$job" || exit 1
  setsid sh "$job/remote.sh" keep "$@" </dev/null >> "$1.log" 2>&1 &
  tenths=100
  while [ ! -f "$1.pid" ] && [ "$tenths" -gt 0 ]; do sleep 0.1; tenths=$((tenths - 1)); done
  [ -f "$1.pid" ] || fail "process $1 did not start within 10 s"
}

# clear GRACE [N…]: ends the processes left of earlier starts (by default all that have a record here)
clear() {
  grace=$1
  shift
  [ $# -gt 0 ] || set -- $(numbers)
  for each in "$@"; do
    look "$each"
    case $state in running|ended) end_group "$group" "$grace" & ;; esac
  done
  wait
  for each in "$@"; do
    tenths=50
    while look "$each"; [ "$state" = running ] || [ "$state" = ended ]; do
      [ "$tenths" -gt 0 ] || fail "process $each does not end ($group)"
      [ "$tenths" != 25 ] || kill -s KILL "$keeper" 2>/dev/null
      sleep 0.1
      tenths=$((tenths - 1))
    done
  done
}

# send TERM|KILL N…: sends a signal to the group of each process
send() {
  signal=$1
  shift
  for each in "$@"; do
    look "$each"
    case $state in running|ended) kill -s "$signal" -- "-$group" 2>/dev/null ;; esac
  done
  return 0
}

# show N…: prints one line per process: N STATE GROUP CODE, the size of its log, the number of its start
show() {
  [ $# -gt 0 ] || set -- $(numbers)
  for each in "$@"; do
    look "$each"
    code=-
    { read -r code _ < "$each.rc"; } 2>/dev/null
    size=0
    [ ! -f "$each.log" ] || size=$(($(wc -c < "$each.log")))
    echo "$each $state ${group:--} ${code:--} $size ${its_start:-0}"
  done
}

# follow N:OFFSET…: the output of each process from there on, and its end, until all have ended; messages of one line each:
#   D N OFFSET LENGTH   that many bytes of log follow    T N    the log is shorter than its offset; it resumes from 0
#   E N CODE THEN NOW   it ended; two uptimes            G N    none of its processes is left
#   L N                 it is gone without a code        S      a command has ended the job
#   I                   nothing new                      Q      the end of the messages
follow() {
  echo bigjax-follow
  list=
  for each in "$@"; do
    list="$list ${each%%:*}"
    eval "at_${each%%:*}=${each#*:}"
  done
  stopped=
  while :; do
    moved= open=
    if [ -z "$stopped" ] && [ -f stop ]; then stopped=1; echo S; fi
    for each in $list; do
      eval "at=\$at_$each over=\$over_$each"
      [ "$over" != gone ] || continue
      look "$each"
      found=$state code=
      { read -r code then < "$each.rc"; } 2>/dev/null
      size=0
      [ ! -f "$each.log" ] || size=$(($(wc -c < "$each.log")))
      if [ "$size" -lt "$at" ]; then echo "T $each"; at=0; fi
      length=$((size - at))
      whole=1
      if [ "$length" -gt 1048576 ]; then length=1048576 whole=; fi
      if [ "$length" -gt 0 ]; then
        echo "D $each $at $length"
        tail -c "+$((at + 1))" "$each.log" | head -c "$length"
        at=$((at + length)) moved=1
      fi
      if [ -n "$whole" ]; then
        if [ -n "$code" ] && [ -z "$over" ]; then
          uptime_now
          echo "E $each $code $then $now"
          over=ended moved=1
        fi
        case $found in none|gone|elsewhere)
          [ "$over" = ended ] || echo "L $each"
          echo "G $each"
          over=gone moved=1 ;;
        esac
      fi
      [ "$over" = gone ] || open=1
      eval "at_$each=$at over_$each=$over"
    done
    if [ -z "$open" ]; then echo Q; exit 0; fi
    if [ -z "$moved" ]; then echo I || exit 1; sleep 0.5; fi
  done
}

# port: prints a port without a listener, outside of the range of ephemeral ports
port() {
  used=" $(awk '$4 == "0A" { split($2, place, ":"); printf "%s ", place[2] }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)"
  from=$(($(date +%s) + $$ * 7))
  tries=0
  while [ "$tries" -lt 200 ]; do
    found=$((20000 + (from + tries * 13) % 10000))
    case $used in *" $(printf %04X "$found") "*) ;; *) echo "$found"; exit 0 ;; esac
    tries=$((tries + 1))
  done
  fail 'no free port between 20000 and 30000'
}

# claim NUMBER: prints granted for the first launcher that claims that start, taken for the others
claim() { mkdir -p claims && if mkdir "claims/$1" 2>/dev/null; then echo granted; else echo taken; fi; }

# claimed: prints the number of the last start
claimed() { ls claims 2>/dev/null | sort -n | tail -n 1; }

# down: removes this folder, and copied code that no other job uses
down() {
  for each in $(numbers); do
    look "$each"
    case $state in running|ended) fail "process $each still runs" ;; esac
  done
  cd "$job/.." || exit 1
  rm -rf "$job"
  echo "removed $job"
  for each in ../code/*/; do
    hash=$(basename "$each")
    if [ -d "$each" ] && ! cat ./*/code 2>/dev/null | grep -q "^$hash"; then rm -rf "$each"; echo "removed code $hash"; fi
  done
}

verb=$1
[ $# -gt 0 ] && shift
case $verb in
  keep|start|clear|send|show|follow|port|claim|claimed|down) "$verb" "$@" ;;
  stop) : > stop ;;
  *) echo "remote.sh: '$verb': no such verb" >&2; exit 2 ;;
esac
