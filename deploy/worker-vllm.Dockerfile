# The worker on NVIDIA GPUs with vLLM. Build from the repository's root:
#   docker build -f deploy/worker-vllm.Dockerfile -t tokenwire-worker-vllm .
# How to run it: docs/engines/vllm.md
FROM vllm/vllm-openai:v0.26.0
WORKDIR /opt/tokenwire
COPY pyproject.toml hatch_build.py LICENSE ./
COPY constraints ./constraints
COPY clients/python ./clients/python
COPY service ./service
COPY inference_worker ./inference_worker
# The image brings vLLM and what it needs, in the versions that it was tested with: of ours only the
# two that must not be newer than its protobuf are held.
RUN python3 -m pip install --no-cache-dir 'grpcio-health-checking==1.75.0' 'grpcio-reflection==1.75.0' . ./service ./inference_worker
# Compiled kernels are cached in the home.
RUN useradd --create-home --uid 10001 worker
# By its number, which Kubernetes can tell from root.
USER 10001
ENV TOKENWIRE_WORKER_LISTEN=0.0.0.0:50061 TOKENWIRE_WORKER_ENGINE=vllm
EXPOSE 50061
# Large models take many minutes to load.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30m CMD ["python3", "-m", "tokenwire_service.probe", "127.0.0.1:50061"]
ENTRYPOINT ["tokenwire-worker"]
