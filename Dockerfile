# docker build --tag eomt .
# docker build --tag eomt --build-arg BASE=nvidia/cuda:<version>-runtime-ubuntu24.04 .
ARG BASE=python:3.11-slim
FROM ${BASE}

# an image of CUDA has no Python
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
    || { apt-get update \
         && apt-get install --yes --no-install-recommends python3 python3-venv \
         && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/eomt
ENV PATH=/opt/eomt/bin:$PATH

WORKDIR /opt/source
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY callbacks callbacks
COPY configs configs
COPY datamodules datamodules
COPY eomt eomt
RUN pip install --no-cache-dir --constraint constraints.txt ".[peft,vqa]"

# what a command reads and writes is mounted at /work; caches of weights go to the home folder
RUN useradd --create-home --uid 10001 eomt && install --directory --owner eomt /work
USER 10001
WORKDIR /work
ENTRYPOINT ["eomt"]
CMD ["--help"]
