#!/usr/bin/env bash
# Certificates for TLS between the nodes of a Ray cluster: an authority of its own, and one for each machine.
#
#   where the authority stays   certificates.sh authority tls         make tls/ca.key and tls/ca.crt
#                               certificates.sh machine tls ADDRESS   make the folder tls/ADDRESS for one machine;
#                                                                     more of its addresses or names may follow
#   each machine                (copy its folder tls/ADDRESS there, and nothing else)
#                               source ADDRESS/env                    before `two-nodes.sh`, `ray start`, `coinfer`
#
# Every process of the cluster, drivers too, then proves who it is and speaks TLS, or is turned away. ca.key signs
# whatever is to belong to the cluster: it stays where it was made. Needs OpenSSL. COINFER_CERTIFICATE_DAYS: how long
# they hold (365).
set -euo pipefail
umask 077

days=${COINFER_CERTIFICATE_DAYS:-365}

fail() {
  echo "certificates.sh: $*" >&2
  exit 2
}

# run WHAT ARGUMENTS...: openssl, whose chatter is shown only where it fails.
run() {
  local what=$1 said
  shift
  said=$(openssl "$@" 2>&1) || fail "$what: $(tail -n 1 <<<"$said")"
}

make_authority() {
  local folder=$1 own
  [[ ! -e $folder/ca.key ]] || fail "$folder/ca.key exists already; what it signed would no longer be trusted"
  mkdir -p "$folder"
  own=$(mktemp -d "$folder/.authority-XXXXXX")
  # shellcheck disable=SC2064  # the name as it is now
  trap "rm -rf $(printf %q "$own")" EXIT
  run "the authority" req -x509 -newkey rsa:3072 -sha256 -nodes -days "$days" -subj "/CN=coinfer-ray cluster" \
    -keyout "$own/ca.key" -out "$own/ca.crt"
  mv "$own/ca.crt" "$own/ca.key" "$folder"
  echo "authority in $folder; for each machine: certificates.sh machine $folder ADDRESS"
}

# Built beside its place and moved there: a machine's folder is whole or not there.
make_machine() {
  local folder=$1 first=$2 own name each names=IP:127.0.0.1,DNS:localhost
  shift
  [[ $first != */* && $first != .* ]] || fail "$first is no address or name of a machine"
  [[ -s $folder/ca.key ]] || fail "no $folder/ca.key; make it with 'certificates.sh authority $folder'"
  name=$folder/$first
  [[ ! -e $name ]] || fail "$name exists already; remove it to make another"
  for each in "$@"; do
    [[ $each =~ ^[A-Za-z0-9][A-Za-z0-9.:-]*$ ]] || fail "'$each' is no address or name of a machine"
    if [[ $each =~ ^[0-9.]+$ || $each == *:* ]]; then names+=,IP:$each; else names+=,DNS:$each; fi
  done
  own=$(mktemp -d "$folder/.machine-XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf $(printf %q "$own")" EXIT
  run "the key of $first" req -newkey rsa:3072 -nodes -subj "/CN=coinfer-ray node" \
    -keyout "$own/node.key" -out "$own/request"
  echo "subjectAltName=$names" >"$own/names"
  run "the certificate of $first" x509 -req -in "$own/request" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" \
    -set_serial "0x$(openssl rand -hex 16)" -days "$days" -sha256 -extfile "$own/names" -out "$own/node.crt"
  rm "$own/request" "$own/names"
  cp "$folder/ca.crt" "$own/ca.crt"
  cat >"$own/env" <<'ENV'
# To be sourced by bash, wherever this folder lies.
_coinfer_tls=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export RAY_USE_TLS=1 RAY_TLS_SERVER_CERT=$_coinfer_tls/node.crt RAY_TLS_SERVER_KEY=$_coinfer_tls/node.key
export RAY_TLS_CA_CERT=$_coinfer_tls/ca.crt
ENV
  mv "$own" "$name"
  echo "certificate for $* in $name; copy that folder there, and source its env"
}

case ${1:-} in
  authority)
    [[ $# -eq 2 ]] || fail "authority needs one folder, for example 'certificates.sh authority tls'"
    make_authority "$2"
    ;;
  machine)
    [[ $# -ge 3 ]] || fail "machine needs the authority's folder and an address: 'certificates.sh machine tls 10.0.0.1'"
    make_machine "${@:2}"
    ;;
  *) fail "usage: certificates.sh authority FOLDER | machine FOLDER ADDRESS [ADDRESS...] (see the top of the script)" ;;
esac
