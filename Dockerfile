# syntax=docker/dockerfile:1
# The service on a CPU. Research software, not a medical device. For usage see docs/service.md.
#
#   docker build -t lungsound .
#   docker run --rm -p 127.0.0.1:8000:8000 -e LUNGSOUND_TOKEN lungsound
#
# serves the model in the box; a run of one's own, exported by 'lungsound export', with
# -v "$PWD/runs/first:/run-to-serve:ro" before the name of the image and --model /run-to-serve behind it.

FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY box box
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . ./box

FROM python:3.11-slim
# The wheels include their libraries: no system package is needed, and no build tool remains.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt \
        "lungsound[serve,av] @ file://$(ls /wheels/lungsound-*.whl)" /wheels/lungsound_box-*.whl \
    && pip uninstall --yes pip setuptools wheel \
    && useradd --system --create-home --uid 10001 lungsound
USER 10001
ENV LUNGSOUND_CACHE=/home/lungsound/cache \
    PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["lungsound", "serve", "--host", "0.0.0.0", "--port", "8000"]
