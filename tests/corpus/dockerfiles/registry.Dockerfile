ARG GO_VERSION=1.23
FROM --platform=$BUILDPLATFORM busybox AS base
WORKDIR /go/src
ENV GO111MODULE=auto
FROM base AS version
RUN --mount=target=. \
  VERSION=$(git describe --match 'v[0-9]*' --dirty='.m' --always --tags) REVISION=$(git rev-parse HEAD); \
  echo "-X version=${VERSION#v} -X revision=$REVISION" | tee /tmp/.ldflags
FROM base AS build
ARG TARGETPLATFORM
ARG LDFLAGS="-s -w"
RUN --mount=type=bind,target=/go/src,rw --mount=type=bind,source=/tmp/.ldflags,target=/tmp/.ldflags,from=version \
      set -x ; xx-go build -trimpath -ldflags "$(cat /tmp/.ldflags) ${LDFLAGS}" -o /usr/bin/registry
FROM scratch AS binary
COPY --from=build /usr/bin/registry /
FROM busybox
COPY --from=binary /registry /bin/registry
VOLUME ["/var/lib/registry"]
EXPOSE 5000
ENTRYPOINT ["registry"]
CMD ["serve", "/etc/distribution/config.yml"]
