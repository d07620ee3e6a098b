#!/usr/bin/env bash
# Manage one training process that survives the connection that started it.
#
#   worker.sh start MODULE ARGUMENT...   start it, unless it is running
#   worker.sh state                      print running, its exit status, or lost
#   worker.sh stop                       save and end; killed after two minutes
#   worker.sh guard MINUTES COMMAND...   stop it and run the command, once nobody has
#                                        asked for the state for so long
#
# In the project's root: train.log (output), train.status (exit status), train.pid,
# train.seen (last question), guard.log.
set -euo pipefail
cd "$(dirname "$0")/../.."

exec 9>train.lock # held as long as the process runs

state() {
  touch train.seen
  if ! flock -n 9; then
    echo running
  else
    cat train.status 2>/dev/null || echo lost
  fi
}

start() {
  flock -w 1 9 || return 0 # ssh repeats the command after a lost connection
  rm -f train.status
  # The process inherits the lock.
  # shellcheck disable=SC2016
  setsid -f bash -c '
    "$@" & echo $! >train.pid
    status=0; wait $! || status=$?
    echo $status >train.status' \
    run .venv/bin/python -m "$@" >>train.log 2>&1 </dev/null
}

guard() {
  touch train.seen
  # shellcheck disable=SC2016
  setsid -f bash -c '
    exec 8>train.guard && flock -n 8 || exit 0 # there is one
    while find train.seen -mmin "-$1" | grep -q .; do sleep 60; done
    date; docs/launch/worker.sh stop; shift; "$@"' \
    guard "$@" >>guard.log 2>&1 </dev/null 9>&-
}

stop() {
  flock -n 9 && return
  kill -TERM "$(cat train.pid)" 2>/dev/null || true
  flock -w "${PATIENCE:-120}" 9 && return
  kill -KILL "$(cat train.pid)" 2>/dev/null || true
  flock -w 10 9
}

"$@"
