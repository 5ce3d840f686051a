# The CPU frontend. Build from the repository's root:
#   docker build -f deploy/frontend.Dockerfile -t tokenwire-frontend .
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml hatch_build.py LICENSE ./
COPY constraints ./constraints
COPY clients/python ./clients/python
COPY service ./service
COPY frontend ./frontend
RUN pip install --no-cache-dir -c constraints/cpu.txt . ./service ./frontend
USER 65534
ENV TOKENWIRE_FRONTEND_LISTEN=0.0.0.0:50051
EXPOSE 50051 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["python", "-m", "tokenwire_service.probe", "127.0.0.1:50051"]
ENTRYPOINT ["tokenwire-frontend"]
