# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # variables shared with run.sh
# What must hold of the running project; sourced by run.sh. Each fails the run by `set -e` or `fail`.

fail() {
  echo "not so: $*" >&2
  exit 1
}

containers() { # containers [--all]: ids of the project's
  compose ps --quiet "$@"
}

name_of() {
  "$docker" inspect --format '{{index .Config.Labels "com.docker.compose.service"}}' "$1"
}

# What a user on this machine does: the command line, against the published ports.
read_forecasts() { # read_forecasts COUNT FILE [OPTION...]
  "${on_host[@]}" timeout 120 .venv/bin/fleetcast tail --count "$1" --json "${@:3}" --bootstrap-servers 127.0.0.1:9092 \
    --registry-url http://127.0.0.1:8081/apis/ccompat/v7 >"$2" 2>"$work/tail.log" || { cat "$work/tail.log"; fail "forecasts were read"; }
}

first_issue() { # first_issue FILE: the least issued_at
  .venv/bin/python -c 'import json, sys; print(min(json.loads(line)["issued_at"] for line in sys.stdin))' <"$1"
}

forecasts_reach_the_host() {
  read_forecasts 1 "$work/first.jsonl"
  first_forecast=$((SECONDS - started))
  read_forecasts 5 "$work/forecasts.jsonl"
  .venv/bin/python tests/compose/check_forecasts.py 5 "$work/forecasts.jsonl"
  "${on_host[@]}" .venv/bin/python -c 'from http.client import HTTPConnection
ask = HTTPConnection("127.0.0.1", 8000, timeout=5); ask.request("GET", "/readyz"); exit(ask.getresponse().status != 200)' ||
    fail "/readyz answers on the host"
  say "forecasts read on the host's side of the ports"
}

no_root_inside() {
  local id user uids all running
  all=$(containers --all) running=$(containers)
  # kafka, registry, simulate, consume; and init, which is done
  [ "$(wc -w <<<"$running")/$(wc -w <<<"$all")" = 4/5 ] || fail "4 of 5 containers run"
  for id in $all; do
    user=$("$docker" inspect --format '{{.Config.User}}' "$id")
    [[ -n $user && ! $user =~ ^(root|0)(:|$) ]] || fail "$(name_of "$id") is set up for a user other than root: '$user'"
  done
  for id in $running; do
    uids=$("$docker" exec "$id" cat /proc/1/status | sed -nE 's/^Uid:\s*//p')
    [[ ! $uids =~ (^|[[:space:]])0($|[[:space:]]) ]] || fail "$(name_of "$id") runs without root: $uids"
  done
  say "no container runs as root"
}

ports_on_loopback_only() {
  local addresses
  # shellcheck disable=SC2046  # ids are words
  addresses=$("$docker" inspect --format '{{range .NetworkSettings.Ports}}{{range .}}{{println .HostIp .HostPort}}{{end}}{{end}}' \
    $(containers) | sed '/^$/d' | sort)
  [ "$addresses" = $'127.0.0.1 8000\n127.0.0.1 8081\n127.0.0.1 9092' ] || fail "ports are on 127.0.0.1 only: $addresses"
  say "ports are published on 127.0.0.1 only"
}

logs_are_json() {
  local service
  for service in consume simulate; do
    "$docker" logs "$(containers "$service")" 2>"$work/$service.log" >/dev/null
    .venv/bin/python -c 'import json, sys; lines = [json.loads(line) for line in sys.stdin]; sys.exit(not lines)' \
      <"$work/$service.log" || { head -5 "$work/$service.log"; fail "the log of $service is JSON"; }
  done
  say "logs are JSON"
}

watching_inside_works() {
  compose run --rm --no-TTY tail --count 2 --json >"$work/inside.jsonl" 2>"$work/inside.log" || { cat "$work/inside.log"; fail "tail ran inside"; }
  .venv/bin/python tests/compose/check_forecasts.py 2 "$work/inside.jsonl"
  say "docker compose run --rm tail shows forecasts"
}

a_stop_is_in_order() {
  local service code
  compose stop --timeout 30 simulate consume >/dev/null 2>&1
  for service in simulate consume; do
    code=$("$docker" inspect --format '{{.State.ExitCode}}' "$(containers --all "$service")")
    [ "$code" = 0 ] || fail "$service ends in order on SIGTERM, not with $code"
  done
  say "simulate and consume end in order on SIGTERM"
}

the_next_up_finds_the_data() { # topics, and schemas by their ids; all containers are new ones
  compose down --timeout 20 >"$work/down.log" 2>&1 || { cat "$work/down.log"; fail "down"; }
  compose up --detach --wait --wait-timeout 300 >"$work/up.log" 2>&1 || { tail -30 "$work/up.log"; fail "up again"; }
  read_forecasts 5 "$work/kept.jsonl" --from-beginning
  [[ $(first_issue "$work/kept.jsonl") < $(first_issue "$work/first.jsonl") ]] || fail "forecasts of before are still there"
  say "the next up finds topics and schemas"
}

nothing_stays_after_down() {
  local kind left
  compose down --volumes --timeout 20 >"$work/down.log" 2>&1 || { cat "$work/down.log"; fail "down"; }
  for kind in container volume network; do
    left=$("$docker" "$kind" ls --quiet --filter "label=com.docker.compose.project=$project")
    [ -z "$left" ] || fail "down leaves no $kind: $left"
  done
  up=
  say "down leaves nothing"
}
