# A service of one model: docker build -t funnelformer . ; docker run -p 127.0.0.1:8000:8000 -v MODEL:/model:ro funnelformer
# With FUNNELFORMER_TOKEN set (docker run -e FUNNELFORMER_TOKEN=...) requests need a bearer token.
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
# Without the second index pip takes the torch that brings CUDA.
RUN pip install --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu ".[serve]" \
    && rm -rf /build
RUN useradd --create-home service
USER service
WORKDIR /home/service
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# No shell between: SIGTERM of `docker stop` reaches the service, which answers what it has accepted.
ENTRYPOINT ["funnelformer", "serve", "/model", "--host", "0.0.0.0"]
