# One image for the four services, their migrations and the commands. All packages are those of requirements/image.txt.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
RUN python -m venv /opt/venv
# The packages first, as they change seldom. One of them has no wheel, so what builds it comes before them.
COPY requirements/build.txt requirements/image.txt requirements/
RUN /opt/venv/bin/pip install --no-deps --require-hashes --requirement requirements/build.txt \
    && /opt/venv/bin/pip install --no-deps --require-hashes --no-build-isolation --use-pep517 \
        --requirement requirements/image.txt
# To install the package itself, the metadata and its name are enough.
COPY setup.cfg pyproject.toml ./
COPY services/__init__.py services/
RUN /opt/venv/bin/pip install --no-deps --no-build-isolation --editable . \
    && /opt/venv/bin/pip uninstall --yes pip \
    && find /opt/venv/lib/python3.11/site-packages/swagger_ui/static -name '*.map' -delete
COPY config.yaml ./
COPY docs/openapi.json docs/
COPY services services
RUN /opt/venv/bin/python -m compileall -q services

# Of the system: Python, its libraries, the certificates, and the two programs that the chart and Compose call, sh and
# sleep. Nothing that installs, compiles, fetches or changes the user.
FROM ${PYTHON_IMAGE} AS system
RUN mkdir --parents /system/tmp /system/usr/bin \
    && chmod 1777 /system/tmp \
    && cp --archive /bin /etc /lib* /system/ \
    && cp --archive /usr/lib* /usr/local /system/usr/ \
    && cp --archive --parents /usr/share/ca-certificates /var/lib/dpkg/status /system/ \
    && find /usr/bin ! -type d '(' -name sh -o -name dash -o -name sleep -o -name 'python*' ')' \
        -exec cp --archive --target-directory /system/usr/bin '{}' + \
    && find /system/usr/local/bin ! -type d ! -name 'python*' -delete \
    && rm -rf /system/usr/lib/apt /system/usr/lib/*/perl* /system/usr/lib/python3/dist-packages \
        /system/usr/lib/python3*/ensurepip /system/usr/local/lib/python3*/ensurepip \
        /system/usr/local/lib/python3*/site-packages/*

FROM scratch
ARG VERSION=0.2.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="nameko-hw" \
      org.opencontainers.image.description="An order flow over four Nameko services: users, billing, orders, notifications" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The warnings filter is for eventlet's own note, see services/__init__.py.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONWARNINGS=ignore::Warning:nameko.cli.commands \
    WEB_SERVER_ADDRESS=0.0.0.0:8000
COPY --from=system /system/ /
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
EXPOSE 8000
# A service: nameko run --config config.yaml services.<name>.<style>
CMD ["nameko-hw", "--help"]
