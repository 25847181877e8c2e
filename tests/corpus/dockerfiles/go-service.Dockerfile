# syntax=docker/dockerfile:1
# Cross compiled on the builder's platform, shipped on nothing.
FROM --platform=$BUILDPLATFORM busybox AS base
WORKDIR /src
ENV CGO_ENABLED=0
FROM base AS deps
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
FROM deps AS build
ARG TARGETOS TARGETARCH
ARG VERSION
RUN --mount=target=. \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build,sharing=locked \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -ldflags "-X main.version=${VERSION:-dev}" -o /out/app ./cmd/app
FROM build AS test
RUN --mount=target=. go test ./...
FROM scratch AS binary
COPY --from=build /out/app /app
FROM busybox AS image
COPY --link --from=binary /app /usr/bin/app
USER 65532:65532
ENTRYPOINT ["/usr/bin/app"]
