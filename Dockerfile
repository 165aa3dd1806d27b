# A service of one exported model, without PyTorch: docker build -t funnelformer .
# docker run -p 127.0.0.1:8000:8000 -v EXPORT:/model:ro funnelformer, where EXPORT is what `funnelformer export` wrote.
# With FUNNELFORMER_TOKEN set (docker run -e FUNNELFORMER_TOKEN=...) requests need a bearer token.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements requirements
# Every file is the one whose hash a lock has, and only this package is built. The environment has no pip of its own.
RUN python -m venv --without-pip /opt/funnelformer \
    && pip --python /opt/funnelformer install --require-hashes --only-binary :all: -r requirements/runtime.txt \
    && python -m venv --without-pip tools \
    && pip --python tools install --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
# Without its dependencies, of which the lock has what an export needs.
RUN tools/bin/python -c "from setuptools.build_meta import build_wheel as build; build('wheels')" \
    && pip --python /opt/funnelformer install --no-deps wheels/*.whl

FROM python:${PYTHON}-slim
ENV PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PATH=/opt/funnelformer/bin:$PATH
COPY --from=build /opt/funnelformer /opt/funnelformer
RUN useradd --create-home --uid 10001 service
# By number, so that Kubernetes' runAsNonRoot sees that it is not root.
USER 10001
WORKDIR /home/service
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# No shell between: SIGTERM of `docker stop` reaches the service, which answers what it has accepted.
ENTRYPOINT ["funnelformer", "serve", "/model", "--host", "0.0.0.0"]
