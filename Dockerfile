# One image for every command of Fleetcast. Needs BuildKit (the default since Docker 23; DOCKER_BUILDKIT=1 before).
FROM python:3.11-slim-bookworm AS build
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/fleetcast
WORKDIR /src

# The dependencies are a layer of their own: a change of our code does not fetch or copy them again.
COPY pyproject.toml constraints.txt ./
# An index of wheels beside PyPI. PyPI's torch for Linux brings CUDA along (gigabytes); an index of CPU wheels spares it.
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache \
    python -m venv /opt/uv \
    && /opt/uv/bin/pip install --quiet --constraint constraints.txt uv \
    && /opt/uv/bin/uv venv --quiet --python "$(command -v python)" "$VIRTUAL_ENV" \
    && /opt/uv/bin/uv pip install --compile-bytecode --constraint constraints.txt --requirements pyproject.toml \
       ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX" --index-strategy unsafe-best-match}

# What .dockerignore lets through: the packages, and what pyproject.toml names.
COPY . .
RUN --mount=type=cache,target=/root/.cache \
    /opt/uv/bin/uv pip install --compile-bytecode --no-deps .


FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Fleetcast" \
      org.opencontainers.image.description="Kafka in, calibrated forecasts out" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed uid, so that the owner of a volume's files is known. ./models of the working directory is where `train` writes
# by default and `--model latest` looks; a fresh named volume there takes over its owner.
RUN groupadd --gid 10001 fleetcast \
    && useradd --uid 10001 --gid fleetcast --no-create-home --home-dir /var/lib/fleetcast --shell /usr/sbin/nologin fleetcast \
    && install --directory --owner=fleetcast --group=fleetcast /var/lib/fleetcast /var/lib/fleetcast/models

COPY --from=build /opt/fleetcast /opt/fleetcast

# No bytecode is written at run time: it is there, and the file system may be read-only.
ENV PATH=/opt/fleetcast/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /var/lib/fleetcast
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["fleetcast"]
CMD ["--help"]
