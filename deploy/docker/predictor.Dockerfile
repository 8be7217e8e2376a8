# syntax=docker/dockerfile:1
# The predictor: an ONNX runtime, a web server, Penstock. Built by deploy/docker/build, which pins PYTHON by digest.
#   docker run --read-only --tmpfs /tmp --cap-drop ALL -v ./models:/models:ro -p 127.0.0.1:8500:8500 IMAGE
# As a container of SageMaker it is run as `IMAGE serve`.
ARG PYTHON

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
COPY locks/serve.lock /build/serve.lock
# Every file is the one of the lock, hash for hash; nothing is resolved. One pure package has never been published as a wheel.
RUN python -m venv --without-pip /opt/penstock \
    && python -m pip --python /opt/penstock/bin/python install --require-hashes --only-binary :all: --no-binary antlr4-python3-runtime --requirement /build/serve.lock
COPY pyproject.toml README.md LICENSE /build/source/
COPY penstock /build/source/penstock
RUN python -m pip --python /opt/penstock/bin/python install --no-deps /build/source
COPY deploy/docker/sbom.py deploy/docker/health.py deploy/docker/slim.py /build/
# The bill of materials is of what is installed, with the hashes of the lock. Then goes what is never run.
RUN /opt/penstock/bin/python /build/sbom.py --lock /build/serve.lock --name penstock-predictor > /build/sbom.cdx.json \
    && /opt/penstock/bin/python /build/slim.py /opt/penstock \
    && /opt/penstock/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/penstock/lib \
    && printf '#!/bin/sh\nexec python -m penstock.serving.sagemaker\n' > /opt/penstock/bin/serve \
    && chmod 0755 /opt/penstock/bin/serve

FROM ${PYTHON}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="penstock-predictor" \
      org.opencontainers.image.description="Serves ONNX artefacts over the Open Inference Protocol" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true"
# No installer, no compiler's headers; nobody in the image can become somebody else.
RUN python -m pip uninstall --yes --quiet pip setuptools wheel \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
    && groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin penstock \
    && install -d -m 1777 /srv/data
COPY --from=build /opt/penstock /opt/penstock
COPY --from=build /build/sbom.cdx.json /usr/share/penstock/sbom.cdx.json
COPY --from=build /build/health.py /usr/share/penstock/health.py
# The public key that artefacts must be signed by, where the repository has one.
COPY conf/deploy/*.pub /usr/share/penstock/
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1 \
    PENSTOCK_PUBLIC_KEY=/usr/share/penstock/release.pub \
    MALLOC_ARENA_MAX=2
WORKDIR /srv
# Artefacts are mounted at /srv/models, settings at /srv/conf, keys at /run/secrets; all may be read-only. Whoever runs the
# container under another number may still write to a volume at /srv/data, where requests are logged.
USER 10001:10001
EXPOSE 8500
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "/usr/share/penstock/health.py", "http://127.0.0.1:8500/v2/health/ready"]
CMD ["penstock", "serve", "host=0.0.0.0", "keys=/run/secrets/clients"]
