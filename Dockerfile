# muster and its agent in one image, on a small Debian. docker-compose.yml says what runs in it.
#
#   docker build -t muster:local .
#
# builds them from these sources; Dockerfile.prebuilt takes programs that are built already. That is a
# file of its own because Docker without BuildKit builds every stage above the last one.
#
# BASE_IMAGE needs glibc and a shell; RUST_IMAGE needs cargo, a C compiler and a glibc no newer than that.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS base
# Everything runs as this user. A new volume takes the owner of the folder that it is mounted over, so
# these folders are all that makes volumes writable: nothing needs root, at no time.
RUN groupadd --gid 10001 muster \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin muster \
    && for name in keys ingest query nats postgres influxdb grafana agent blobs; do \
        install -d -o 10001 -g 10001 -m 0700 "/var/lib/muster/$name" || exit 1; \
    done
USER 10001:10001
CMD ["muster", "--help"]

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist -p muster \
    && cargo build --locked --profile dist-agent -p muster-agent

FROM base AS muster
# For an InfluxDB elsewhere, by HTTPS with a certificate of a public CA.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/target/dist/muster /src/target/dist-agent/muster-agent /usr/local/bin/
