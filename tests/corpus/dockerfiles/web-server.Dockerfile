# A server compiled in one stage and shipped in another, in the manner of web servers.
ARG BASE=busybox
FROM ${BASE} AS build
ARG VERSION=1.25.3
ARG MODULES="ssl http_v2"
WORKDIR /usr/src/server
COPY configure Makefile ./
COPY src/ src/
RUN set -eux; \
    # options one a line, so that a change is one line
    ./configure \
        --prefix=/opt/server \
        --with-modules="${MODULES}" \
        --version=$VERSION \
    ; \
    make -j "$(nproc)"; \
    make install DESTDIR=/out
FROM ${BASE}
LABEL org.opencontainers.image.title="server" \
      org.opencontainers.image.version="1.25.3"
COPY --from=build /out/ /
COPY entrypoint.sh /
RUN addgroup -S www && adduser -S -G www www; ln -sf /dev/stdout /var/log/access.log
ENV CONF_DIR=/etc/server \
    PATH=/opt/server/sbin:$PATH
EXPOSE 80 443/tcp 443/udp
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=30s --timeout=3s CMD wget -q -O /dev/null http://localhost/ || exit 1
ENTRYPOINT ["/entrypoint.sh"]
CMD ["server", "-g", "daemon off;"]
