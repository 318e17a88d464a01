# The course with everything it needs, for a CPU or an NVIDIA GPU:
#   docker build -t vaebm .
#   docker run --rm vaebm                                   make run
#   docker run --rm vaebm make test
#   docker run --rm -p 8888:8888 vaebm make lab LAB="--ip=0.0.0.0 --allow-root --no-browser"
#   docker run --rm --gpus all -v "$PWD/runs:/vaebm/runs" vaebm make gpu-check
# The wheels of PyTorch on PyPI bring CUDA along. For a CPU alone, several GB smaller:
#   docker build --build-arg WHEELS=https://download.pytorch.org/whl/cpu -t vaebm .
FROM python:3.12-slim
ARG WHEELS=
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /vaebm
COPY . .
RUN if [ -n "$WHEELS" ]; then export PIP_INDEX_URL="$WHEELS" PIP_EXTRA_INDEX_URL=https://pypi.org/simple; fi; \
    PIP_NO_CACHE_DIR=1 make .venv/.installed
CMD ["make", "run"]
