# Image of the server: compiled modules, the extension for Raft, no compiler, no pip.
#   docker build -t codeq .
# Each base can be replaced, by images that agree: BUILD has the Python of BASE at the same path, and neither BUILD nor RUST
# has a newer C library than BASE. Without a compiler in BUILD the modules are interpreted; without cargo in RUST the image
# runs single nodes only.
ARG BASE=python:3.11-slim-bookworm
ARG BUILD=python:3.11-bookworm
ARG RUST=rust:1-slim-bookworm

FROM ${RUST} AS raft_core
WORKDIR /src
COPY server/raft_core ./
ENV PYO3_NO_PYTHON=1 PYO3_BUILD_EXTENSION_MODULE=1
RUN mkdir /out \
 && if command -v cargo >/dev/null; then \
      cargo build --release --quiet && cp target/release/libcodeq_raft_core.so /out/codeq_raft_core.abi3.so; \
    else echo "No cargo: the image runs single nodes only"; fi

FROM ${BUILD} AS build
ARG OPT_LEVEL=3
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
# The environment of the image has no pip; another one builds.
RUN python3 -m venv --without-pip /app/venv && python3 -m venv /build
WORKDIR /src
COPY requirements.txt requirements-compile.txt ./
RUN /build/bin/pip install --quiet --require-hashes -r requirements.txt -r requirements-compile.txt \
 && /build/bin/pip --python /app/venv/bin/python3 install --quiet --require-hashes -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY sdks/python sdks/python
COPY gateway gateway
COPY server server
COPY cli cli
RUN if command -v cc >/dev/null; then export CODEQ_COMPILE=1 CODEQ_OPT_LEVEL=${OPT_LEVEL}; \
    else echo "No compiler: the modules are interpreted"; fi \
 && CODEQ_PUBLISHED=1 /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels ./sdks/python . \
 && /build/bin/pip --python /app/venv/bin/python3 install --quiet --no-deps /wheels/*.whl \
 && /build/bin/pip --python /app/venv/bin/python3 uninstall --quiet --yes setuptools
COPY --from=raft_core /out /raft_core
RUN cp -r /raft_core/. "$(/app/venv/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
COPY LICENSE deploy/image/codeq-server /app/

FROM ${BASE} AS image
# Python packages need it no more.
RUN if python3 -m pip --version >/dev/null 2>&1; then python3 -m pip uninstall --quiet --yes pip setuptools wheel; fi \
 && groupadd --gid 10001 codeq \
 && useradd --uid 10001 --gid codeq --home-dir /var/lib/codeq --no-create-home --shell /usr/sbin/nologin codeq \
 && install -d -o codeq -g codeq /var/lib/codeq /var/lib/codeq/pebble /var/lib/codeq/artifacts /var/lib/codeq/backups
COPY --from=build /app /app

# A stage of its own: the script is no part of the image.
FROM image AS contents
COPY deploy/image/sbom.py /
RUN /app/venv/bin/python3 /sbom.py > /sbom.cdx.json

FROM image
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG BASE
LABEL org.opencontainers.image.title="codeq" \
      org.opencontainers.image.description="Durable multitenant task queue" \
      org.opencontainers.image.url="https://github.com/osvaldoandrade/codeq" \
      org.opencontainers.image.source="https://github.com/osvaldoandrade/codeq" \
      org.opencontainers.image.documentation="https://github.com/osvaldoandrade/codeq/blob/main/docs/deployment.md" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=contents /sbom.cdx.json /app/sbom.cdx.json
ENV PATH=/app/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PERSISTENCE_CONFIG='{"path":"/var/lib/codeq/pebble"}'
USER 10001:10001
WORKDIR /var/lib/codeq
VOLUME ["/var/lib/codeq/pebble", "/var/lib/codeq/artifacts"]
# REST, gRPC for workers, gRPC for producers.
EXPOSE 8080 9091 9092
# Reads the configuration of the server, so it asks at the right port.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["/app/venv/bin/codeq", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/codeq-server"]
