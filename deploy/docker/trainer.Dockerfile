# syntax=docker/dockerfile:1
# What the graph is run in: everything of the locks but pictures; `--build-arg EXTRAS="vision cloud"` for those too.
# Built by deploy/docker/build. The repository is mounted or cloned into /srv; the image holds its environment.
ARG PYTHON

FROM ${PYTHON} AS build
ARG EXTRAS="cloud"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY requirements.lock deploy/docker/lock.py deploy/docker/sbom.py /build/
COPY locks /build/locks
# One lock of several; words are to be split here, a lock a word.
# hadolint ignore=SC2046
RUN python /build/lock.py /build/requirements.lock $(printf '/build/locks/%s.lock ' ${EXTRAS}) > /build/image.lock \
    && python -m venv --without-pip /opt/penstock \
    && python -m pip --python /opt/penstock/bin/python install --require-hashes --only-binary :all: --no-binary antlr4-python3-runtime --requirement /build/image.lock
COPY pyproject.toml README.md LICENSE /build/source/
COPY penstock /build/source/penstock
RUN python -m pip --python /opt/penstock/bin/python install --no-deps /build/source \
    && /opt/penstock/bin/python /build/sbom.py --lock /build/image.lock --name penstock-trainer > /build/sbom.cdx.json

FROM ${PYTHON}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="penstock-trainer" \
      org.opencontainers.image.description="Runs the graph: dvc repro, penstock sign, penstock deploy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# git is DVC's, libgomp LightGBM's. Debian serves no old versions, so that a pinned one would soon not build; the base is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
    && groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin penstock \
    && install -d -o 10001 -g 10001 /srv
COPY --from=build /opt/penstock /opt/penstock
COPY --from=build /build/sbom.cdx.json /usr/share/penstock/sbom.cdx.json
ENV PATH=/opt/penstock/bin:$PATH \
    DVC_NO_ANALYTICS=1 \
    PYTHONPATH=/srv \
    PYTHONUNBUFFERED=1
WORKDIR /srv
USER 10001:10001
STOPSIGNAL SIGINT
# It runs and ends: whether it is well is its exit code.
HEALTHCHECK NONE
CMD ["dvc", "repro"]
