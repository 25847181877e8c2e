# Targets for everything, chosen with --target or by number.
ARG VARIANT=release
ARG BASE_${VARIANT}
FROM busybox AS base-release
ENV MODE=fast
FROM busybox AS base-debug
ENV MODE=slow
FROM base-${VARIANT} AS base
ARG VARIANT
RUN echo "$VARIANT $MODE"
FROM base AS docs
RUN echo docs
FROM base AS lint
RUN echo lint
FROM scratch AS artifacts
COPY --from=docs /etc/passwd /docs/
COPY --from=lint /etc/passwd /lint/
