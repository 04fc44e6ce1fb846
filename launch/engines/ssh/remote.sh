#!/bin/sh
# The launcher's hand on a machine that ssh reaches: starts processes that go on without it, keeps what they write and how they
# end, and tells it. POSIX shell and Linux's /proc; nothing is installed. It lies in the folder of its job and works there:
#
#   N.log     what process N has written, of all its starts, each after a line with its time
#   N.pid     of its keeper and of its own group: number and start time of each; the boot and the name of the machine; which
#             start of the job it is
#   N.rc      its exit code, and the machine's uptime in seconds when it ended
#   stop      somebody has asked for the end: no launcher starts it again
#   claims/   a folder for each start, made by the launcher that may start it
#
# Exit codes: 0 done, 1 it could not be done, 2 wrong use. Never 255, by which ssh says that it has lost the connection.

cd "$(dirname "$0")" || exit 1
job=$(pwd)

fail() { echo "$*" >&2; exit 1; }

# started PID: sets `since` to when the process was started, in ticks after the boot; '' where there is none, or a dead one
started() {
  since=
  { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 0
  stat=${stat##*") "}
  set -- $stat
  case $1 in Z|X) ;; *) since=${20} ;; esac
}

uptime_now() { read -r now _ < /proc/uptime; }

# look N: sets `state` to none (never started), running, ended (it, or what it has started, may still be going), gone, or
# elsewhere (another machine that shares this folder has it); and keeper, group: the numbers
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
  started "$group"  # its keeper was killed, and it was not
  [ "$since" != "$group_since" ] || state=running
}

numbers() { for file in *.pid; do [ ! -f "$file" ] || echo "${file%.pid}"; done; }

# keep N START GRACE FOLDER COMMAND…: the process that stays; it has a session of its own, and so has the command
keep() {
  me=$1 its_start=$2 grace=$3
  trap 'told=1' TERM INT HUP  # a handler and no 'ignore', which the command would inherit
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
    told=
    wait "$child"
    new=$?
    [ "$new" != 127 ] || [ -z "$code" ] || break  # some shells forget a child once they have told of it
    code=$new
    [ -n "$told" ] || break
  done
  uptime_now
  echo "$code $now" > "$job/$me.rc.new"
  mv "$job/$me.rc.new" "$job/$me.rc"
  end_group "$child" "$grace"
}

# end_group NUMBER GRACE: what is left of it gets SIGTERM, and SIGKILL after so many seconds
end_group() {
  kill -s TERM -- "-$1" 2>/dev/null || return 0
  tenths=$(($2 * 10))
  while [ "$tenths" -gt 0 ] && kill -s 0 -- "-$1" 2>/dev/null; do sleep 0.1; tenths=$((tenths - 1)); done
  kill -s KILL -- "-$1" 2>/dev/null
  return 0
}

# start N START GRACE FOLDER COMMAND…: returns when it runs, in FOLDER; its environment is the one that this is called with
start() {
  look "$1"
  case $state in running|ended) fail "process $1 is still there" ;; esac
  rm -f "$1.pid" "$1.rc"
  cd "$4" || exit 1
  command -v "$5" >/dev/null || fail "'$5': no such program there; name its folder with path=…"
  cd "$job" || exit 1
  setsid sh "$job/remote.sh" keep "$@" </dev/null >> "$1.log" 2>&1 &
  tenths=100
  while [ ! -f "$1.pid" ] && [ "$tenths" -gt 0 ]; do sleep 0.1; tenths=$((tenths - 1)); done
  [ -f "$1.pid" ] || fail "process $1 did not start within 10 s"
}

# clear GRACE [N…]: ends what is left of earlier starts (of all processes that this machine knows)
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

# tell TERM|KILL N…: a signal to all that each has started
tell() {
  signal=$1
  shift
  for each in "$@"; do
    look "$each"
    case $state in running|ended) kill -s "$signal" -- "-$group" 2>/dev/null ;; esac
  done
  return 0
}

# show N…: a line each: N STATE GROUP CODE, the size of its log, which start it is
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

# follow N:OFFSET…: what each writes from there on, and how it ends, until all have; a line, then what it announces:
#   D N OFFSET LENGTH   so many bytes of the log      T N           the log is shorter than that; it goes on from 0
#   E N CODE THEN NOW   it ended; uptimes             G N           nothing of it is left
#   L N                 it is gone without a code     S             somebody has asked for the end
#   I                   nothing new                   Q             that was all
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

# port: one that nobody here listens on, outside of the range from which connections get theirs
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

# claim NUMBER: whether this is the first launcher that asks for that start
claim() { mkdir -p claims && if mkdir "claims/$1" 2>/dev/null; then echo mine; else echo taken; fi; }

# claimed: the number of the last start
claimed() { ls claims 2>/dev/null | sort -n | tail -n 1; }

# down: removes this folder, and sent code that no other job names
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
  keep|start|clear|tell|show|follow|port|claim|claimed|down) "$verb" "$@" ;;
  stop) : > stop ;;
  *) echo "remote.sh: '$verb': no such verb" >&2; exit 2 ;;
esac
