# The daemon as a container image; how to run it: docs/operations.md, "In containers".
#
#   docker build --tag esp-ingestd .
#   docker build --build-arg BASE_IMAGE=registry.example/python:3.13 --secret id=pip.conf,src=pip.conf --tag esp-ingestd .
#   docker build --build-arg COMPILE=0 --tag esp-ingestd .
#
# The base image needs a Python 3.11 or newer with venv, and Debian's packages for a C compiler, which only the build has:
# compiled, diagnosis takes a half to a third of the time. COMPILE=0 does without both. A package index of one's own, and
# its password, come in as the secret pip.conf, which stays in no layer. It needs BuildKit, Docker's default since 23.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
ARG COMPILE=1
# A Python of Debian's own has its headers in a package; others bring them.
RUN if [ "$COMPILE" != 0 ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
            $([ "$(command -v python3)" != /usr/bin/python3 ] || echo python3-dev) \
        && rm -rf /var/lib/apt/lists/*; \
    fi
# The dependencies first, since their layer is kept while only the code changes. All are wheels with known hashes.
COPY requirements/run.txt requirements/build.txt requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m venv /build && python3 -m venv --without-pip /opt/esp-ingestd \
    && /build/bin/pip install --no-cache-dir --only-binary :all: --require-hashes --requirement requirements/build.txt \
    && /build/bin/pip --python /opt/esp-ingestd/bin/python install \
        --no-cache-dir --only-binary :all: --require-hashes --requirement requirements/run.txt
COPY pyproject.toml README.md ./
COPY .ci/compile_core.py .ci/
COPY esp_ingestd/ esp_ingestd/
COPY sql/ sql/
COPY config/ config/
RUN ESP_INGESTD_COMPILE="$COMPILE" /build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/esp-ingestd/bin/python install --no-deps --no-index /wheels/*.whl

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="esp-ingestd" \
      org.opencontainers.image.description="MQTT telemetry of electrical submersible pumps into TimescaleDB"
# A number that no other service of a host is likely to have, fixed so that volumes and secrets can be given to it.
RUN groupadd --system --gid 10001 esp-ingestd \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/esp-ingestd \
        --shell /usr/sbin/nologin esp-ingestd \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/esp-ingestd
COPY --from=build /opt/esp-ingestd /opt/esp-ingestd
COPY config/esp-ingestd.toml config/wells.toml config/decision_tree.toml /etc/esp-ingestd/
# Inside a container the loopback address would be reached by nobody. The health check asks the same port.
ENV PATH=/opt/esp-ingestd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ESP_INGESTD_HTTP__HOST=0.0.0.0 \
    ESP_INGESTD_HTTP__PORT=9464
USER 10001:10001
VOLUME /var/lib/esp-ingestd
EXPOSE 9464
# Drained until service.shutdown_timeout_s (20 s): let `docker stop --time` or stop_grace_period be longer.
STOPSIGNAL SIGTERM
# Healthy means ready: broker and database are both there. Unhealthy is no reason to restart, it goes on by itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/opt/esp-ingestd/bin/python", "-c", \
    "import os, sys; from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', int(os.environ['ESP_INGESTD_HTTP__PORT']), timeout=4); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["esp-ingestd"]
CMD ["run", "--config", "/etc/esp-ingestd/esp-ingestd.toml"]
