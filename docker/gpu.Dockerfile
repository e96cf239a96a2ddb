# rfx for NVIDIA GPUs: TensorRT, ONNX Runtime's CUDA provider, PyTorch and CuPy on CUDA 13. It ships no model.
# From the top of the repository: docker build -f docker/gpu.Dockerfile -t rfx:gpu .
# The tag, the version of tensorrt-cu13 in constraints.txt and the tag of Triton in compose.yaml go together: Triton reads
# only engines that its own version of TensorRT built.
ARG TENSORRT_TAG=26.08-py3
FROM nvcr.io/nvidia/tensorrt:${TENSORRT_TAG}

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The system's Python is managed by the distribution, so rfx gets an environment of its own. The base has no ensurepip:
# its pip serves the environment from outside.
RUN python3 -m venv --without-pip /opt/rfx
ENV PATH=/opt/rfx/bin:${PATH}

# PyPI's build of this version is for CUDA 13.0 and brings its libraries.
RUN /usr/bin/python3 -m pip --python /opt/rfx/bin/python install torch==2.13.0

# An empty package of the same metadata brings the dependencies, so that a change of the code keeps this layer.
# TensorRT's wheels are on NVIDIA's own index.
COPY pyproject.toml docker/constraints.txt ./
RUN mkdir rfx recipes && touch rfx/__init__.py README.md \
    && /usr/bin/python3 -m pip --python /opt/rfx/bin/python install -c constraints.txt \
        --extra-index-url https://pypi.nvidia.com ".[cuda13,trt13,plots]"

COPY README.md ./
COPY recipes recipes
COPY rfx rfx
RUN /usr/bin/python3 -m pip --python /opt/rfx/bin/python install --no-deps --force-reinstall .

# A user of its own; the folders are open to any, so that `docker run -u` can give yours.
RUN useradd --uid 10001 --no-create-home rfx && mkdir -p /work /cache && chmod 1777 /work /cache
# ONNX Runtime and others report nothing to their makers, whatever runs in the container.
ENV ORT_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
ENV HOME=/cache RFX_CACHE=/cache/rfx HF_HOME=/cache/huggingface MPLCONFIGDIR=/cache/matplotlib
USER rfx
WORKDIR /work
# In place of NVIDIA's own entry point, whose banner would stand in the output of `rfx --json`.
ENTRYPOINT ["rfx"]
