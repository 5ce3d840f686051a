# The worker with the CPU engine and the demo model. Build from the repository's root:
#   docker build -f deploy/worker.Dockerfile -t tokenwire-worker .
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml hatch_build.py LICENSE ./
COPY constraints ./constraints
COPY clients/python ./clients/python
COPY service ./service
COPY inference_worker ./inference_worker
RUN pip install --no-cache-dir -c constraints/cpu.txt . ./service './inference_worker[openvino]'
COPY models/demo/openvino /models/demo
USER 65534
ENV TOKENWIRE_WORKER_LISTEN=0.0.0.0:50061 TOKENWIRE_WORKER_MODEL=/models/demo
EXPOSE 50061
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["python", "-m", "tokenwire_service.probe", "127.0.0.1:50061"]
ENTRYPOINT ["tokenwire-worker"]
