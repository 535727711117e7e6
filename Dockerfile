# Two targets from one build:
#   docker build --target cuda -t sd-worker:cuda .
#   docker build --target cpu -t sd-worker:cpu --build-arg PIP_EXTRA_INDEX=<index with CPU builds of torch> .
# Without PIP_EXTRA_INDEX the cpu image works too, only larger: it then carries the CUDA libraries.
#
# The image listens on every address, so it starts only with a token:
#   docker run --stop-timeout 40 --read-only --tmpfs /tmp -e SDW_TOKEN -p 8600:8600 sd-worker:cpu
#   docker run --stop-timeout 40 --gpus all -e SDW_TOKEN -p 8600:8600 -v /path/to/model:/model:ro sd-worker:cuda --model /model
# Docker would kill it after 10 s, which is less than running jobs are given (--drain-s).
# With --compile, /tmp must allow what is compiled there to be run, which it does not by itself: --tmpfs /tmp:exec.

FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
RUN python -m venv /opt/sd-worker
ENV PATH=/opt/sd-worker/bin:$PATH
WORKDIR /build
# Dependencies before sources: a change of code does not install torch again.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        more = p['optional-dependencies']; print(*p['dependencies'], *more['c2pa'], *more['tracing'], sep='\n')" \
        > requirements.txt \
    && pip install --constraint constraints.txt ${PIP_EXTRA_INDEX:+--extra-index-url "$PIP_EXTRA_INDEX"} \
        setuptools --requirement requirements.txt
COPY README.md LICENSE ./
COPY shared_worker shared_worker
COPY worker worker
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim AS runtime
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp worker \
    && install --directory --owner worker --group worker /state
COPY --from=build /opt/sd-worker /opt/sd-worker
# Nothing outside /tmp, and /state where it is used, is ever written: the root may be read-only.
# Address and port stand in the environment and not in CMD: flags given to `docker run` do not drop them, and the
# health check knows the port.
ENV PATH=/opt/sd-worker/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SDW_HOST=0.0.0.0 \
    SDW_PORT=8600
WORKDIR /tmp
USER 10001:10001
EXPOSE 8600
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"SDW_PORT\"]}/health', timeout=4)"]

FROM runtime AS cuda
# For --compile: Triton builds what starts its kernels with the C compiler that it finds. Python's headers are here.
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["sd-worker-cuda"]
CMD ["serve"]

FROM runtime AS cpu
ENTRYPOINT ["sd-worker-cpu"]
CMD ["serve"]
