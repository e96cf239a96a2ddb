# rfx for the CPU: ONNX Runtime and the CPU build of PyTorch. It ships no model.
# From the top of the repository: docker build -f docker/cpu.Dockerfile -t rfx:cpu .
ARG PYTHON_TAG=3.11-slim-bookworm
FROM python:${PYTHON_TAG}

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Without its dependencies: PyTorch's index has only some versions of them, the next step brings them from PyPI.
RUN pip install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0

# An empty package of the same metadata brings the dependencies, so that a change of the code keeps this layer.
# With `plots`, because people will read what the image measured: report.html is a part of every output. It adds 0.1 GB to
# more than 1 GB. Without `tables`, which would add 0.25 GB only to read Parquet files: add it where yours are such files.
COPY pyproject.toml docker/constraints.txt ./
RUN mkdir rfx recipes && touch rfx/__init__.py README.md \
    && pip install -c constraints.txt ".[cpu,plots]"

COPY README.md ./
COPY recipes recipes
COPY rfx rfx
RUN pip install --no-deps --force-reinstall .

# A user of its own; the folders are open to any, so that `docker run -u` can give yours.
RUN useradd --uid 10001 --no-create-home rfx && mkdir /work /cache && chmod 1777 /work /cache
# ONNX Runtime and others report nothing to their makers, whatever runs in the container.
ENV ORT_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
ENV HOME=/cache RFX_CACHE=/cache/rfx HF_HOME=/cache/huggingface MPLCONFIGDIR=/cache/matplotlib
USER rfx
WORKDIR /work
ENTRYPOINT ["rfx"]
