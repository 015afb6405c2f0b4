#!/usr/bin/env bash
# Brings docker-compose.yml up on a real Docker engine, as it is, and reads forecasts from the host.
#   make compose-test
# With a running engine that can pull the images: those. Otherwise (standin.sh): an engine of our own, and stand-ins.
#   TORCH_INDEX=URL             index of CPU wheels for the image
#   FLEETCAST_STANDIN_DATA=DIR  keep the stand-in engine's images there, for the next run
set -Eeuo pipefail
trap 'echo "failed: $BASH_COMMAND (${BASH_SOURCE[0]}:$LINENO)" >&2' ERR
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
# shellcheck source=tests/compose/standin.sh
. tests/compose/standin.sh
# shellcheck source=tests/compose/checks.sh
. tests/compose/checks.sh

# A project of its own: `down -v` must never meet the volumes of somebody's `docker compose up`.
project=fleetcast-compose-test
on_host=() docker=docker

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }
compose() { "${on_host[@]}" "$docker" compose --project-name "$project" "$@"; }

can_pull() { # whether an engine runs here that has or gets the official images
  local image
  docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 || return
  for image in $(sed -nE 's/^ *image: ([^ ]*\/[^ ]*).*/\1/p' docker-compose.yml) "$(standin_from Dockerfile)"; do
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null 2>&1 || return
  done
}

finish() {
  local code=$?
  trap - EXIT
  exec >&3 2>&4 # a signal may have met us inside a redirection
  if [ -n "${up:-}" ]; then
    [ $code = 0 ] || compose logs --tail 25 2>&1 | cut -c -400 || true
    compose down --volumes --timeout 20 >/dev/null 2>&1 || true
  fi
  standin_stop
  rm -rf "$work"
  if [ $code = 0 ]; then say "passed"; else say "FAILED"; fi
  exit $code
}

exec 3>&1 4>&2
work=$(mktemp -d "${TMPDIR:-/tmp}/fleetcast-compose.XXXXXX")
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -x .venv/bin/fleetcast ] || make --no-print-directory install
if can_pull; then
  engine="this machine's engine, official images"
  began=$SECONDS
  compose build --quiet
  image_seconds=$((SECONDS - began))
else
  engine="an engine of our own, stand-ins for the official images"
  standin_start "$work"
fi
image_mb=$(($("$docker" image inspect --format '{{.Size}}' fleetcast:local) / 1000000))
say "$engine; fleetcast:local is there"

up=yes
started=$SECONDS
compose up --detach --wait --wait-timeout 600 >"$work/up.log" 2>&1 || { tail -30 "$work/up.log"; compose ps --all; exit 1; }
healthy=$((SECONDS - started))
say "healthy after $healthy s"

forecasts_reach_the_host
no_root_inside
ports_on_loopback_only
logs_are_json
watching_inside_works
a_stop_is_in_order
the_next_up_finds_the_data
nothing_stays_after_down

cat <<END

engine                      $engine
image                       $image_mb MB, built in $image_seconds s (0: nothing had changed)
up until all are healthy    $healthy s
first forecast on the host  $first_forecast s after up was called
END
