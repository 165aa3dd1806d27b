# A service of one exported model, without PyTorch: docker build -t funnelformer .
# docker run -p 127.0.0.1:8000:8000 -v EXPORT:/model:ro funnelformer, where EXPORT is what `funnelformer export` wrote.
# With FUNNELFORMER_TOKEN set (docker run -e FUNNELFORMER_TOKEN=...) requests need a bearer token.
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
WORKDIR /build
COPY requirements/runtime.txt ./
# Every file is the one whose hash the lock has, and nothing is built.
RUN pip install --require-hashes --only-binary :all: -r runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
# Without its dependencies, of which the lock has what an export needs.
RUN pip install --no-deps . && rm -rf /build && useradd --create-home service
USER service
WORKDIR /home/service
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# No shell between: SIGTERM of `docker stop` reaches the service, which answers what it has accepted.
ENTRYPOINT ["funnelformer", "serve", "/model", "--host", "0.0.0.0"]
