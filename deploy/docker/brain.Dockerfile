# The reference brain, from the root of the repository:
#
#   docker build -f deploy/docker/brain.Dockerfile -t telemetryx-brain .
#
# With pandas and Arrow for functions over frames: --build-arg EXTRAS=health,pandas,arrow

ARG PYTHON_VERSION=3.13
FROM python:${PYTHON_VERSION}-slim-bookworm AS built
ARG EXTRAS=health
COPY python/brain /source
RUN --mount=type=cache,id=telemetryx-brain-pip,target=/root/.cache/pip \
    python -m venv /opt/brain \
 && /opt/brain/bin/pip install "/source[${EXTRAS}]"

FROM python:${PYTHON_VERSION}-slim-bookworm
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="TelemetryX brain" \
      org.opencontainers.image.description="A brain for TelemetryX: functions over the event stream" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --system --gid 10001 brain \
 && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin brain
# The same path as where it was made: an environment of Python cannot be moved.
COPY --from=built /opt/brain /opt/brain
ENV PATH=/opt/brain/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /
EXPOSE 50061
STOPSIGNAL SIGTERM
# Whether somebody listens; `grpc.health.v1` tells more to those who can ask it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 50061), 3).close()"]
ENTRYPOINT ["telemetryx-brain"]
CMD ["--listen", "0.0.0.0:50061"]
