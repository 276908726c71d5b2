# syntax=docker/dockerfile:1
# Training on NVIDIA GPUs: torch's wheels of the package index bring CUDA, so the host needs only its driver and the
# NVIDIA container toolkit.
#
#   docker build -t titok-hf .
#   docker run --gpus all --ipc=host --user "$(id -u):$(id -g)" -v "$PWD":/workspace titok-hf titok-hf train my_recipe.yaml
#
# Eight GPUs: `accelerate launch --num_processes 8 -m titok_hf.cli train my_recipe.yaml` as the command. The loader's
# processes share memory, which --ipc=host allows.
FROM python:3.11-slim-bookworm

# torch.compile needs a C compiler; the other tools of a build are not needed. Debian keeps one version at a time.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# The requirements change less often than the sources, and are the larger part: a layer of their own.
COPY constraints.txt /source/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /source/constraints.txt torch torchvision

COPY setup.cfg pyproject.toml MANIFEST.in README.md LICENSE /source/
COPY src /source/src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /source/constraints.txt "/source[train,lpips]"

# Downloads from the Hub stay in the mounted folder, so that a new container does not repeat them. --user may name a
# user whom the image does not know: libraries that ask for a name and a home folder read these variables.
ENV HF_HOME=/workspace/.huggingface HOME=/tmp USER=titok
USER 1000:1000
WORKDIR /workspace
CMD ["titok-hf", "--help"]
