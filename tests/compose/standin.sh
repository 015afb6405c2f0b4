# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # variables shared with run.sh
# A Docker engine of our own, for a machine that has none, and stand-ins for the images that no registry here serves.
# What SIGKILL leaves: the folder, the engine and the namespace, all named fleetcast-compose.
# Sourced by run.sh, under `set -e`. Debian, root; leaves nothing behind but installed packages and the compose binary in the cache.
#
# Two phases, because a network namespace of its own is what keeps the project's networks and ports off the machine,
# but nothing can be fetched from inside it:
#   build  dockerd in the machine's network, without bridge or iptables; `docker build --network host`
#   run    dockerd on the same data in a namespace of its own; its 127.0.0.1 is the host that the ports are published on

COMPOSE_VERSION=2.40.3
STANDIN_PACKAGES=(docker.io containerd runc iptables iproute2 debootstrap)

standin_start() { # standin_start WORK: engine, images, and then the engine in its namespace
  standin_work=$1 standin_namespace=fleetcast-compose-$$
  standin_data=${FLEETCAST_STANDIN_DATA:-$standin_work/data} # a folder that stays spares the base images in the next run
  standin_packages
  standin_compose
  say "packages and compose are there"
  standin_engine
  standin_bases
  standin_services
  say "base images and stand-ins are there"
  standin_project
  standin_stop_engine
  ip netns add "$standin_namespace"
  on_host=(nsenter "--net=/run/netns/$standin_namespace")
  "${on_host[@]}" ip link set lo up
  standin_engine "${on_host[@]}"
}

standin_stop() { # end the engine and remove the namespace; no error if there is none
  standin_stop_engine
  [ -z "${standin_namespace:-}" ] || ip netns delete "$standin_namespace" 2>/dev/null || true
  # A container that did not end in order leaves its mounts.
  awk -v below="${standin_work:-/nowhere}/" 'index($2, below) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
}

standin_packages() {
  [ "$(id -u)" = 0 ] || { echo "a Docker engine of our own needs root"; return 1; }
  local missing=() package
  for package in "${STANDIN_PACKAGES[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  echo "installing ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >"$standin_work/apt.log" 2>&1 || { tail -5 "$standin_work/apt.log"; return 1; }
}

# Debian packages no compose v2; from its Go module it takes some minutes of CPU, once.
standin_compose() {
  local cached=${XDG_CACHE_HOME:-$HOME/.cache}/fleetcast/compose-v$COMPOSE_VERSION/docker-compose
  [ -x "$cached" ] || standin_build_compose "$cached"
  export DOCKER_CONFIG=$standin_work/config
  mkdir -p "$DOCKER_CONFIG/cli-plugins"
  ln -s "$cached" "$DOCKER_CONFIG/cli-plugins/docker-compose"
}

standin_build_compose() { # standin_build_compose TARGET
  local source=$standin_work/compose module=github.com/docker/compose/v2
  mkdir -p "$source" "$(dirname "$1")"
  printf 'module composebuild\n\ngo 1.24\n\ntool %s/cmd\n\nrequire %s v%s\n' $module $module $COMPOSE_VERSION >"$source/go.mod"
  (
    cd "$source"
    go mod tidy && CGO_ENABLED=0 nice -n 10 go build -trimpath -o built \
      -ldflags "-s -w -X $module/internal.Version=v$COMPOSE_VERSION" $module/cmd
  ) >"$source/log" 2>&1 || { tail -5 "$source/log"; return 1; }
  mv "$source/built" "$1"
}

standin_engine() { # standin_engine [PREFIX...]: dockerd, without a network of its own where there is no prefix
  local own=()
  [ $# -gt 0 ] || own=(--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false)
  # Debian's client: it has BuildKit built in, where another on PATH may have no buildx.
  docker=$(dpkg -L docker.io | grep '/bin/docker$')
  export DOCKER_HOST=unix://$standin_work/docker.sock DOCKER_BUILDKIT=1
  "$@" dockerd --host "$DOCKER_HOST" --data-root "$standin_data" --exec-root "$standin_work/exec" \
    --pidfile "$standin_work/dockerd.pid" --storage-driver overlay2 "${own[@]}" >>"$standin_work/dockerd.log" 2>&1 &
  standin_process=$!
  local _
  for _ in $(seq 120); do
    "$docker" version >/dev/null 2>&1 && return
    kill -0 "$standin_process" 2>/dev/null || break
    sleep 0.25
  done
  tail -20 "$standin_work/dockerd.log"
  return 1
}

standin_stop_engine() { # dockerd ends its containers and its containerd
  [ -n "${standin_process:-}" ] || return 0
  kill "$standin_process" 2>/dev/null || true
  wait "$standin_process" 2>/dev/null || true
  standin_process=
}

standin_bases() { # a bare Debian, and the Python that the project's Dockerfile starts from
  local here=$root/tests/compose/standin
  standin_debian
  standin_build "$(standin_from "$root/Dockerfile")" "$here/python"
}

standin_from() { # the image that a Dockerfile starts from
  awk 'toupper($1) == "FROM" {print $2; exit}' "$1"
}

standin_debian() {
  "$docker" image inspect fleetcast-standin/debian >/dev/null 2>&1 && return
  local tree=$standin_work/debian mirror setting settings=()
  # shellcheck disable=SC2016  # apt-get's own placeholder
  # This machine's own mirror of Debian. Sources are split by release, so security updates and others fall out.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' 'Component: main' |
    awk '!found++ {print $1}')
  debootstrap --variant=minbase --include=ca-certificates bookworm "$tree" "$mirror" >"$standin_work/debootstrap.log" 2>&1 ||
    { tail -5 "$standin_work/debootstrap.log"; return 1; }
  # How this machine reaches the package indexes is a matter of the stand-in, not of the project's Dockerfile.
  cp /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/"
  for setting in PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt LANG=C.UTF-8 \
    ${PIP_INDEX_URL:+"PIP_INDEX_URL=$PIP_INDEX_URL" "UV_DEFAULT_INDEX=$PIP_INDEX_URL"}; do
    settings+=(--change "ENV $setting")
  done
  rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
  tar -C "$tree" --numeric-owner -c . | "$docker" import "${settings[@]}" - fleetcast-standin/debian >/dev/null
  rm -rf "$tree"
}

# The brokers' images: the jars that the dev stack fetches, and a Java of this machine that is new enough for both.
standin_services() {
  local java folders context=$standin_work/context
  java=$(.venv/bin/python -c 'from devstack.java import find_java; print(find_java(21).executable.parent.parent)')
  mapfile -t folders < <(.venv/bin/python -m devstack fetch)
  [ ${#folders[@]} = 2 ] || { echo "python -m devstack fetch names no folders of Kafka and Apicurio"; return 1; }
  local at name
  for at in 0 1; do
    name=$(standin_kind "${folders[at]}")
    mkdir -p "$context/$name/java"
    tar -C "$java" --dereference --exclude ./jmods --exclude ./lib/src.zip -c . | tar -C "$context/$name/java" -x
    cp -r "${folders[at]}" "$context/$name/$(basename "$(dirname "${folders[at]}")")"
    cp "$root/tests/compose/standin/$name"/* "$context/$name/"
    standin_build "$(standin_image "$name")" "$context/$name"
    rm -rf "${context:?}/$name"
  done
}

standin_kind() { # kafka or apicurio, of a folder of the dev stack's cache
  case $1 in */kafka/*) echo kafka ;; */apicurio-registry/*) echo apicurio ;; esac
}

standin_image() { # the name that the compose file gives that image
  sed -nE "s|^ *image: ($([ "$1" = kafka ] && echo apache || echo apicurio)/[^ ]*).*|\1|p" "$root/docker-compose.yml"
}

# The project's own Dockerfile, as it is. PyPI's torch, since no index of CPU wheels can be counted on here.
standin_project() {
  local began=$SECONDS
  standin_build fleetcast:local "$root" --build-arg "TORCH_INDEX=${TORCH_INDEX:-}"
  image_seconds=$((SECONDS - began))
}

standin_build() { # standin_build TAG FOLDER [OPTION...]: the engine of the build phase has no other network
  "$docker" build --network host --progress plain --tag "$1" "${@:3}" "$2" >"$standin_work/build.log" 2>&1 ||
    { tail -30 "$standin_work/build.log"; return 1; }
}
