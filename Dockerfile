# The image of the service. docs/docker.md describes how to build and run it.
#   PYTHON  tag of the base image: 3.12, or 3.12.1-slim's digest in your own registry
#   EXTRA   which lock file of requirements/ is installed: serve, openvino, otel, parquet or cuda
ARG PYTHON=3.12

# === All packages of the lock file, each archive verified by hash ===
FROM python:${PYTHON}-slim AS locked
ARG EXTRA=serve
# bytecode.py writes the required bytecode.
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /source
COPY requirements/${EXTRA}.txt requirements/
# The bill of materials uses the report of installed archives. The secret configures another package index.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/root/.config/pip/pip.conf \
    python -m venv --without-pip /opt/fnet \
    && pip --python /opt/fnet install --disable-pip-version-check --root-user-action ignore --no-compile --require-hashes \
        --requirement "requirements/${EXTRA}.txt" --report /source/installed.json --progress-bar off --quiet

# === The libraries without build dependencies ===
FROM locked AS libraries
# binutils provides `strip`, which is only needed in this stage.
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install --yes -qq --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
COPY deploy/image/trim.sh deploy/image/
RUN deploy/image/trim.sh /opt/fnet

# === The project, built offline with the installed packages, and the bytecode of all modules that serving imports ===
FROM locked AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
RUN pip --python /opt/fnet wheel --disable-pip-version-check --no-index --no-deps --no-build-isolation \
        --wheel-dir /wheels --quiet .

FROM libraries AS project
COPY --from=wheel /wheels /wheels
COPY deploy/image/project.sh deploy/image/bytecode.py deploy/image/
RUN deploy/image/project.sh /opt/fnet /wheels /project

# === The bill of materials of the trimmed environment ===
FROM project AS materials
COPY requirements/sbom.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/root/.config/pip/pip.conf \
    python -m venv --without-pip /opt/sbom \
    && pip --python /opt/sbom install --disable-pip-version-check --root-user-action ignore --require-hashes \
        --requirement requirements/sbom.txt --progress-bar off --quiet
COPY deploy/image/sbom.py deploy/image/
COPY --from=locked /var/lib/dpkg /base/dpkg
RUN /opt/sbom/bin/python deploy/image/sbom.py /opt/fnet installed.json /base/dpkg /usr/share/fnet-encode/sbom.cdx.json

# === The final image ===
FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 fnet \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fnet \
    && install --directory --owner 10001 --group 10001 /var/cache/fnet /presets
# The largest layer comes first, because only the lock file changes it.
COPY --from=libraries /opt/fnet /opt/fnet
COPY --from=project /project /
COPY --from=materials /usr/share/fnet-encode /usr/share/fnet-encode
ENV PATH=/opt/fnet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FNET_HOST=0.0.0.0 \
    FNET_CACHE_DIR=/var/cache/fnet \
    FNET_LOG_FORMAT=json
USER 10001:10001
WORKDIR /presets
EXPOSE 8000
ENTRYPOINT ["fnet-service"]
CMD ["serve"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["fnet-service", "health"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="FNet Encode" \
      org.opencontainers.image.description="Exact, padding-free embeddings from Fourier encoders (FNet) over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
