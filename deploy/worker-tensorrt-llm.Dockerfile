# The worker on NVIDIA GPUs with TensorRT-LLM. Build from the repository's root:
#   docker build -f deploy/worker-tensorrt-llm.Dockerfile -t tokenwire-worker-tensorrt-llm .
# How to run it: docs/engines/tensorrt_llm.md
FROM nvcr.io/nvidia/tensorrt-llm/release:1.2.1
WORKDIR /opt/tokenwire
COPY pyproject.toml hatch_build.py LICENSE ./
COPY constraints ./constraints
COPY clients/python ./clients/python
COPY service ./service
COPY inference_worker ./inference_worker
# The image brings the engine, so not the extra that would install it.
RUN pip install --no-cache-dir -c constraints/tensorrt_llm.txt . ./service ./inference_worker
# MPI and the kernels' caches want a home.
RUN useradd --create-home --uid 10001 worker
# By its number, which Kubernetes can tell from root.
USER 10001
ENV TOKENWIRE_WORKER_LISTEN=0.0.0.0:50061 TOKENWIRE_WORKER_ENGINE=tensorrt_llm
EXPOSE 50061
# Large models take many minutes to load.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30m CMD ["python3", "-m", "tokenwire_service.probe", "127.0.0.1:50061"]
# NVIDIA's entrypoint finds the driver's libraries, and then becomes the worker.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "tokenwire-worker"]
