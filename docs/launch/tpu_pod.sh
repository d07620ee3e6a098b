#!/usr/bin/env bash
# Train on a TPU slice until the run is complete, through preemptions; then delete it.
#
#   export NAME=trm ZONE=us-central2-b TYPE=v4-64
#   docs/launch/tpu_pod.sh run train.trm sudoku --config.run-dir gs://BUCKET/runs/trm
#
#   run MODULE ARGUMENT...    create, install, start, watch; repeat after a preemption;
#                             always delete at the end
#   create, install, start MODULE ARGUMENT..., watch, log, stop, delete    one step
#   on WORKERS COMMAND        run a shell command on workers: `on all 'df -h'`
#
# Run it at the root of the project. Only committed files are sent to the slice.
# DRY_RUN=1 prints the commands of a run without a failure, and executes none.
set -uo pipefail

: "${NAME:?name of the slice, for example: export NAME=trm}"
: "${ZONE:?zone, for example: export ZONE=us-central2-b}"
: "${TYPE:?kind and size, for example: export TYPE=v4-64}"
RUNTIME=${RUNTIME:-tpu-ubuntu2204-base} # v5e, v5p, v6e have others: docs/tpu-pod.md
SPOT=${SPOT:-1}                         # 0: not preemptible, more expensive
POLL=${POLL:-60}                        # seconds between two status checks
RESTARTS=${RESTARTS:-10}                # maximum of restarts without a preemption
UNSEEN=${UNSEEN:-10}                    # failed checks before a slice is replaced
EXTRAS=${EXTRAS:-tpu}                   # of the package, as in pip install '.[tpu]'
PREPARE=${PREPARE:-}                    # command for every worker after installation
WAIT=${WAIT:-}                          # longest wait for a slice, like 6h; empty: any
HOURS=${HOURS:-}                        # longest `run` in hours; empty: any
ALONE=${ALONE:-60}                      # minutes without a check after which a slice
#                                         saves and deletes itself; 0: never

CODE=tiny-recursive-jax # folder on the workers

say() { echo "$(date '+%F %T') $NAME: $*" >&2; }
pause() { sleep "$POLL" >/dev/null 2>&1 & wait $!; } # a signal ends it at once
tpus() { gcloud compute tpus "$@" --zone="$ZONE" --quiet; }
on() { tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2"; }
over() { [ -n "$HOURS" ] && [ "$SECONDS" -ge $((HOURS * 3600)) ]; }

# Print the state of the queued resource: empty if there is none, UNKNOWN without answer.
state() {
  local list
  list=$(tpus queued-resources list --format='value(name.basename(),state.state)') ||
    { echo UNKNOWN && return; }
  awk -v name="$NAME" '$1 == name { print $2 }' <<<"$list"
}

if [ "${DRY_RUN:-0}" != 0 ]; then
  POLL=0 STATE=
  state() { echo "$STATE"; }
  show() { printf '%q ' "$@" >&2 && echo >&2; }
  git() { show git "$@"; }
  gcloud() {
    show gcloud "$@"
    case "$*" in
    *"worker.sh guard"*) ;;
    *" create "*) STATE=ACTIVE ;;
    *" delete "*) STATE= ;;
    *"worker.sh state"*) echo 0 ;;
    esac
  }
fi

create() {
  local now options=()
  [ "$SPOT" = 0 ] || options=(--spot)
  [ -z "$WAIT" ] || options+=(--valid-until-duration="$WAIT")
  while now=$(state); [ "$now" != ACTIVE ]; do
    over && return 1
    say "${now:-new request for $TYPE}"
    case "$now" in
    "") tpus queued-resources create "$NAME" --node-id="$NAME" \
      --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${options[@]}" || return ;;
    SUSPENDING | SUSPENDED) delete || return ;; # preempted: never active again
    FAILED) tpus queued-resources describe "$NAME" >&2 && return 1 ;;
    esac
    pause
  done
}

# Install code, Python 3.12 (the image has 3.10) and packages on every worker.
install() {
  local code changes
  changes=$(git status --short)
  [ -z "$changes" ] || say "not committed, so not sent:"$'\n'"$changes"
  code=$(mktemp --suffix=.tar.gz) || return
  git archive --format=tar.gz --output="$code" HEAD &&
    tpus tpu-vm scp "$code" "$NAME:$CODE.tar.gz" --worker=all &&
    on all "set -e
      mkdir -p $CODE && tar xzf $CODE.tar.gz -C $CODE && cd $CODE
      python3 -m pip install -q --user uv && PATH=\$HOME/.local/bin:\$PATH
      [ -d .venv ] || uv venv -q --python 3.12
      uv pip install -q -c constraints.txt -e '.[$EXTRAS]'
      $PREPARE"
  local status=$?
  rm -f "$code"
  return "$status"
}

start() {
  local command
  printf -v command ' %q' "$@" --config.mesh.distributed
  on all "bash $CODE/docs/launch/worker.sh start$command"
}

# Let the slice delete itself when no script checks it any more.
guard() {
  [ "$ALONE" = 0 ] || on 0 "bash $CODE/docs/launch/worker.sh guard $ALONE gcloud compute \
    tpus queued-resources delete $NAME --zone=$ZONE --force --async --quiet"
}

stop() { on all "bash $CODE/docs/launch/worker.sh stop"; }

log() { on 0 "tail -n 100 -F $CODE/train.log"; }

# Wait for the end and set END: an exit status, `lost` (no process and no status: the
# machine was restarted), `preempted`, `unseen`, or `over`.
watch() {
  local unseen=0
  while [ "$unseen" -lt "$UNSEEN" ]; do
    pause
    over && END=over && return
    case "$(state)" in
    ACTIVE) ;;
    UNKNOWN) say "no answer from the cloud" && continue ;; # local network
    *) END=preempted && return ;;
    esac
    if END=$(on 0 "bash $CODE/docs/launch/worker.sh state"); then
      unseen=0
      [ "$END" = running ] || return 0
    else
      unseen=$((unseen + 1))
    fi
  done
  END=unseen
}

# Succeed if no machine was lost or restarted.
intact() {
  local states
  pause
  [ "$(state)" = ACTIVE ] &&
    states=$(on all "bash $CODE/docs/launch/worker.sh state") &&
    ! grep -qx lost <<<"$states"
}

run() {
  local restarts=0 had=0
  exec 8>"${TMPDIR:-/tmp}/tpu_pod-$ZONE-$NAME.lock" || return
  flock -n 8 || { say "another terminal runs it: choose another NAME" && return 1; }
  trap 'say "interrupted: saving"; stop; exit 130' INT TERM HUP
  trap 'delete || exit 1' EXIT
  while [ "$restarts" -le "$RESTARTS" ]; do
    if ! create; then
      over && say "over after $HOURS hours" && return 1
      [ "$had" = 1 ] || return # a wrong request
      restarts=$((restarts + 1)) && pause && continue
    fi
    had=1
    say "installing"
    if install && stop && start "$@" && guard; then
      say "running; the output: docs/launch/tpu_pod.sh log"
      watch
    elif [ "$(state)" = ACTIVE ]; then
      END="not started"
    else
      END=preempted
    fi
    say "ended: $END"
    case "$END" in
    0) return 0 ;;
    1 | 2)
      if intact; then # a restart would fail again
        on all "tail -n 20 $CODE/train.log" >&2
        return "$END"
      fi
      restarts=$((restarts + 1))
      ;;
    over) stop; return 1 ;;
    preempted) ;;
    unseen) delete; restarts=$((restarts + 1)) ;;
    *) restarts=$((restarts + 1)) ;;
    esac
  done
  say "not complete after $RESTARTS restarts"
  return 1
}

delete() {
  local try
  for try in 1 2 3 4 5; do
    [ -n "$(state)" ] || return 0
    say "deleting"
    tpus queued-resources delete "$NAME" --force || pause
  done
  [ -z "$(state)" ] && return
  say "NOT DELETED after $try attempts, may cost money: delete it manually"
  return 1
}

case "${1:-}" in
run | start) [ $# -ge 2 ] || { echo "usage: $0 $1 MODULE ARGUMENT..." >&2 && exit 2; } ;;
create | install | watch | log | stop | delete) ;;
on) [ $# -eq 3 ] || { echo "usage: $0 on WORKERS COMMAND" >&2 && exit 2; } ;;
*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
esac
"$@"
