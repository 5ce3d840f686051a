# The CPU frontend. Build from the repository's root:
#   docker build -f deploy/frontend.Dockerfile -t tokenwire-frontend .
# Its stage with a compiler makes wheels, of which the frontend's is compiled.
FROM python:3.12 AS build
WORKDIR /app
COPY pyproject.toml hatch_build.py LICENSE ./
COPY constraints ./constraints
COPY clients/python ./clients/python
COPY service ./service
COPY frontend ./frontend
RUN pip wheel --no-cache-dir --no-deps -w /wheels . ./service ./frontend

FROM python:3.12-slim
COPY constraints /constraints
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /constraints/cpu.txt /wheels/*.whl
USER 65534
ENV TOKENWIRE_FRONTEND_LISTEN=0.0.0.0:50051
EXPOSE 50051 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["python", "-m", "tokenwire_service.probe", "127.0.0.1:50051"]
ENTRYPOINT ["tokenwire-frontend"]
