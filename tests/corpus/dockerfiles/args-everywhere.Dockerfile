# REGISTRY where images come from
ARG REGISTRY=docker.io/library
# TAG of the base
ARG TAG
ARG IMAGE=${REGISTRY}/busybox:${TAG:-latest}
FROM ${IMAGE} AS one
ARG TAG REGISTRY=other LATE=${TAG-unset}/${REGISTRY//o/0}
ENV OUT=${LATE%/*}
FROM one
