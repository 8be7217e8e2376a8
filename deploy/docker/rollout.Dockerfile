# syntax=docker/dockerfile:1
# Router and controller of a rollout: which of them a container is, its command says. Built by deploy/docker/build.
ARG PYTHON

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
COPY locks/serve.lock locks/rollout.lock deploy/docker/lock.py /build/
# The web server that predictors have, and what rollouts are judged and remembered by. Same versions, same hashes.
RUN python /build/lock.py /build/serve.lock /build/rollout.lock > /build/image.lock \
    && python -m venv --without-pip /opt/penstock \
    && python -m pip --python /opt/penstock/bin/python install --require-hashes --only-binary :all: --no-binary antlr4-python3-runtime --requirement /build/image.lock
COPY pyproject.toml README.md LICENSE /build/source/
COPY penstock /build/source/penstock
RUN python -m pip --python /opt/penstock/bin/python install --no-deps /build/source
COPY deploy/docker/sbom.py deploy/docker/health.py deploy/docker/slim.py /build/
RUN /opt/penstock/bin/python /build/sbom.py --lock /build/image.lock --name penstock-rollout > /build/sbom.cdx.json \
    && /opt/penstock/bin/python /build/slim.py /opt/penstock \
    && /opt/penstock/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/penstock/lib

FROM ${PYTHON}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="penstock-rollout" \
      org.opencontainers.image.description="Router and controller of a rollout" \
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
EXPOSE 8600
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "/usr/share/penstock/health.py", "http://127.0.0.1:8600/v2/health/live"]
CMD ["penstock", "rollout", "router", "churn", "router.host=0.0.0.0", "router.keys=/run/secrets/clients", "router.operators=/run/secrets/operators"]
