# The image of Beam workers for `livecc produce`: this checkout with its extra [produce].
# docker build -f launch/produce.Dockerfile -t IMAGE .    (launch_produce.sh image)
ARG PYTHON=3.12
ARG BEAM=2.77.0
FROM apache/beam_python${PYTHON}_sdk:${BEAM}
COPY . /opt/livecc_jax
RUN pip install --no-cache-dir '/opt/livecc_jax[produce]' gcsfs s3fs && pip check
# Models that stages name (--text-model, --face-model, --speech-model) must have the same path here:
# COPY models /models
