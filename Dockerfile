# Image of the server. The base brings Python 3.11 or newer with venv, at whatever path:
#   docker build -t codeq .
#   docker build --build-arg BASE=<any such Debian image> -t codeq .
ARG BASE=python:3.11-slim
# Has cargo, to build the extension for Raft, and a C library no newer than that of BASE. Without cargo (RUST=${BASE}) the
# image is built all the same and runs single nodes only.
ARG RUST=rust:1-slim-bookworm

FROM ${RUST} AS raft_core
WORKDIR /src
COPY server/raft_core ./
ENV PYO3_NO_PYTHON=1 PYO3_BUILD_EXTENSION_MODULE=1
RUN mkdir /out \
 && if command -v cargo >/dev/null; then \
      cargo build --release --quiet && cp target/release/libcodeq_raft_core.so /out/codeq_raft_core.abi3.so; \
    else echo "No cargo: the image runs single nodes only"; fi

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /app/venv
WORKDIR /src
COPY requirements.txt ./
RUN /app/venv/bin/pip install --quiet --require-hashes -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY sdks/python sdks/python
COPY gateway gateway
COPY server server
COPY cli cli
RUN /app/venv/bin/pip install --quiet --no-deps --no-build-isolation ./sdks/python . \
 && printf '#!/bin/sh\nexec /app/venv/bin/codeq serve "$@"\n' > /app/codeq-server \
 && chmod 755 /app/codeq-server
COPY --from=raft_core /out /raft_core
RUN cp -r /raft_core/. "$(/app/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
COPY LICENSE /app/LICENSE

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="codeq" \
      org.opencontainers.image.description="Durable multitenant task queue" \
      org.opencontainers.image.source="https://github.com/osvaldoandrade/codeq" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 codeq \
 && useradd --uid 10001 --gid codeq --home-dir /var/lib/codeq --no-create-home --shell /usr/sbin/nologin codeq \
 && install -d -o codeq -g codeq /var/lib/codeq /var/lib/codeq/pebble /var/lib/codeq/artifacts
COPY --from=build /app /app
ENV PATH=/app/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PERSISTENCE_CONFIG='{"path":"/var/lib/codeq/pebble"}'
USER 10001:10001
WORKDIR /var/lib/codeq
VOLUME ["/var/lib/codeq/pebble", "/var/lib/codeq/artifacts"]
# REST, gRPC for workers, gRPC for producers.
EXPOSE 8080 9091 9092
# /healthz answers as long as the process serves; PORT is the server's own variable.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python3", "-c", "import os, ssl, urllib.request as r; e = os.environ; s = 'https' if e.get('TLS_CERT_FILE') or e.get('HTTP_TLS_CERT_FILE') else 'http'; r.urlopen(f\"{s}://127.0.0.1:{e.get('PORT', '8080')}/healthz\", timeout=2, context=ssl._create_unverified_context())"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/codeq-server"]
