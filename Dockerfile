# One image for the four services, their migrations and the commands. All packages are those of constraints.txt.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
RUN python -m venv /opt/venv
# The packages first, as they change seldom: to install them, the metadata and the package's name are enough.
COPY setup.cfg pyproject.toml constraints.txt ./
COPY services/__init__.py services/
RUN /opt/venv/bin/pip install --constraint constraints.txt setuptools \
    && /opt/venv/bin/pip install --constraint constraints.txt --no-build-isolation --editable . \
    && /opt/venv/bin/pip uninstall --yes pip \
    && find /opt/venv/lib/python3.11/site-packages/swagger_ui/static -name '*.map' -delete
COPY config.yaml ./
COPY docs/openapi.json docs/
COPY services services
RUN /opt/venv/bin/python -m compileall -q services

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nameko-hw" \
      org.opencontainers.image.description="An order flow over four Nameko services: users, billing, orders, notifications" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The warnings filter is for eventlet's own note, see services/__init__.py.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONWARNINGS=ignore::Warning:nameko.cli.commands \
    WEB_SERVER_ADDRESS=0.0.0.0:8000
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
EXPOSE 8000
# A service: nameko run --config config.yaml services.<name>.<style>
CMD ["nameko-hw", "--help"]
