#!/usr/bin/env bash
# A Ray cluster by hand, on any two machines (or more: every further one is a worker), token authentication on.
#
#   machine A   two-nodes.sh token                    make the cluster's token
#               two-nodes.sh head                     start the head; prints its address
#   machine B   (copy the token file from A first)
#               two-nodes.sh worker HEAD_ADDRESS      start a worker
#   either      RAY_AUTH_MODE=token coinfer sweep grid.yaml --out answers/ --address HEAD_ADDRESS
#               two-nodes.sh stop                     end what this script started on this machine
#
# Arguments after these go to `ray start`, for example --num-cpus=4 --object-store-memory=2000000000.
# The same Python, ray and coinfer-ray must be installed on every machine; `ray` must be on the PATH.
#
# Settings, by environment:
#   RAY_AUTH_TOKEN_PATH   the token file             (~/.ray/auth_token, where drivers look for it too)
#   COINFER_NODE_ADDRESS  this machine's address     (as Ray finds it)
#   COINFER_HEAD_PORT     the head's port            (6379)
#   COINFER_NODE_PORT     first of six node ports    (6380: 6380 to 6385)
#   COINFER_WORKER_PORTS  the workers' ports         (10002-10101)
#   COINFER_CLUSTER_STATE process ids and logs       (~/.local/state/coinfer-ray)
# Firewall: let the two machines reach each other at these ports, and nobody else. Tokens and data travel
# unencrypted: across a network that is not yours, use a tunnel. The dashboard listens on loopback only.
set -euo pipefail

token_file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
state=${COINFER_CLUSTER_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/coinfer-ray}
head_port=${COINFER_HEAD_PORT:-6379}
node_port=${COINFER_NODE_PORT:-6380}
worker_ports=${COINFER_WORKER_PORTS:-10002-10101}
start_limit_s=60

fail() {
  echo "two-nodes.sh: $*" >&2
  exit 2
}

make_token() {
  [[ ! -e $token_file ]] || fail "$token_file exists already; every machine of the cluster needs this same file"
  mkdir -p "$(dirname "$token_file")"
  (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token_file")
  echo "token in $token_file; copy it to the other machines with mode 600"
}

check_token() {
  [[ -s $token_file ]] || fail "no token in $token_file; make one with 'two-nodes.sh token', or copy the head's"
  local mode
  mode=$(stat -c %a "$token_file")
  [[ $mode == 600 || $mode == 400 ]] || fail "$token_file has mode $mode and others may read it; chmod 600 it"
}

# start_node ROLE ARGUMENTS...: `ray start` in the background, in a session of its own, until it is up.
start_node() {
  local role=$1 pid log
  shift
  check_token
  command -v ray >/dev/null || fail "ray is not on the PATH; activate the environment that has coinfer-ray"
  mkdir -p "$state"
  pid=$state/$role.pid
  log=$state/$role.log
  if [[ -s $pid ]] && kill -0 "$(cat "$pid")" 2>/dev/null; then
    fail "a $role runs here already (process $(cat "$pid")); end it with 'two-nodes.sh stop'"
  fi
  RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token_file RAY_USAGE_STATS_ENABLED=0 \
    setsid ray start --block --disable-usage-stats \
    ${COINFER_NODE_ADDRESS:+--node-ip-address="$COINFER_NODE_ADDRESS"} \
    --node-manager-port="$node_port" --object-manager-port=$((node_port + 1)) \
    --runtime-env-agent-port=$((node_port + 2)) --dashboard-agent-grpc-port=$((node_port + 3)) \
    --dashboard-agent-listen-port=$((node_port + 4)) --metrics-export-port=$((node_port + 5)) \
    --min-worker-port="${worker_ports%-*}" --max-worker-port="${worker_ports#*-}" \
    "$@" </dev/null >"$log" 2>&1 &
  echo $! >"$pid"
  for _ in $(seq $((start_limit_s * 5))); do
    if grep -q "Ray runtime started" "$log"; then
      return
    fi
    if ! kill -0 "$(cat "$pid")" 2>/dev/null; then
      tail -n 5 "$log" >&2
      fail "the $role ended while starting; see $log"
    fi
    sleep 0.2
  done
  stop_nodes
  fail "the $role was not up after $start_limit_s s; see $log"
}

# Only the processes started here: their children are in the session that setsid made.
stop_nodes() {
  local role pid
  for role in worker head; do
    [[ -s $state/$role.pid ]] || continue
    pid=$(cat "$state/$role.pid")
    if kill -TERM "$pid" 2>/dev/null; then
      for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
      done
      # Whatever of the node outlived its parent; the session's id is the parent's.
      pkill -KILL -s "$pid" 2>/dev/null || true
      echo "$role stopped"
    fi
    rm -f "$state/$role.pid"
  done
}

command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
  token) make_token ;;
  head)
    start_node head --head --port="$head_port" --dashboard-host=127.0.0.1 "$@"
    address=$(grep -m 1 -o "ray start --address='[^']*'" "$state/head.log" | cut -d"'" -f2)
    echo "head running at $address"
    echo "on the other machine:  two-nodes.sh worker $address"
    echo "driver, on either:     RAY_AUTH_MODE=token coinfer sweep grid.yaml --out answers/ --address $address"
    ;;
  worker)
    [[ $# -ge 1 && $1 != -* ]] || fail "worker needs the head's address, for example 'two-nodes.sh worker 10.0.0.1:6379'"
    address=$1
    shift
    start_node worker --address="$address" "$@"
    echo "worker running, joined $address"
    ;;
  stop) stop_nodes ;;
  *) fail "usage: two-nodes.sh token | head [...] | worker HEAD_ADDRESS [...] | stop (see the top of the script)" ;;
esac
