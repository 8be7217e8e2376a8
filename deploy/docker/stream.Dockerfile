# syntax=docker/dockerfile:1
# Gateway, indexer and live page: which of them a container is, its command says. Built by deploy/docker/build.
ARG PYTHON

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
COPY requirements.lock locks/stream.lock deploy/docker/lock.py /build/
# What the real-time path imports of the graph's lock: polars and pyarrow write its lake. Same versions, same hashes.
RUN python /build/lock.py /build/stream.lock /build/requirements.lock polars polars-runtime-32 pyarrow scipy numpy > /build/image.lock \
    && python -m venv --without-pip /opt/penstock \
    && python -m pip --python /opt/penstock/bin/python install --require-hashes --only-binary :all: --no-binary antlr4-python3-runtime --requirement /build/image.lock
COPY pyproject.toml README.md LICENSE /build/source/
COPY penstock /build/source/penstock
RUN python -m pip --python /opt/penstock/bin/python install --no-deps /build/source
COPY deploy/docker/sbom.py deploy/docker/health.py deploy/docker/slim.py /build/
RUN /opt/penstock/bin/python /build/sbom.py --lock /build/image.lock --name penstock-stream > /build/sbom.cdx.json \
    && /opt/penstock/bin/python /build/slim.py /opt/penstock \
    && /opt/penstock/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/penstock/lib

FROM ${PYTHON}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="penstock-stream" \
      org.opencontainers.image.description="Gateway and indexer of the real-time path" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN python -m pip uninstall --yes --quiet pip setuptools wheel \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
    && groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin penstock \
    && install -d -m 1777 /srv/data
COPY --from=build /opt/penstock /opt/penstock
COPY --from=build /build/sbom.cdx.json /usr/share/penstock/sbom.cdx.json
COPY --from=build /build/health.py /usr/share/penstock/health.py
COPY conf /srv/conf
COPY hydra_plugins /srv/hydra_plugins
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1
WORKDIR /srv
USER 10001:10001
EXPOSE 8400
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "/usr/share/penstock/health.py", "http://127.0.0.1:8400/health/ready"]
CMD ["penstock", "stream", "gateway", "cluster", "gateway.host=0.0.0.0", "gateway.keys=/run/secrets/devices"]
