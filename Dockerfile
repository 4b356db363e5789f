# HetSpec without SGLang: dashboard, training, built-in decoding. docs/sglang.md has the `docker run` lines.
#
#   docker build -t hetspec .
#
# The wheel of torch brings the CUDA libraries it needs; the host brings the driver.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 LANG=C.UTF-8

WORKDIR /opt/hetspec
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY hetspec_core hetspec_core
COPY hetspec_tui hetspec_tui
COPY presets presets
# constraints.txt pins a torch for the processor; on a GPU the range of pyproject.toml decides.
RUN grep -v '^torch==' constraints.txt >/tmp/constraints.txt \
    && pip install --constraint /tmp/constraints.txt '.[engine]' \
    && rm /tmp/constraints.txt

# Runs, datasets and caches: mount a volume here, or they go with the container.
ENV HETSPEC_HOME=/data
VOLUME /data
WORKDIR /work

ENTRYPOINT []
CMD ["hetspec-core", "doctor"]
