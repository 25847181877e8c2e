# A database with a user of its own, a volume and scripts that run at the first start.
FROM busybox
RUN set -eux; addgroup -S -g 70 db; adduser -u 70 -S -D -G db -h /var/lib/db db
ENV LANG=en_US.utf8
ENV DB_MAJOR=16
ENV DB_VERSION=${DB_MAJOR}.2 DB_DATA=/var/lib/db/data
RUN mkdir /docker-init.d
WORKDIR /tmp
ADD --chown=db:db init.tar.gz /docker-init.d/
RUN install -d -o db -g db -m 1777 "$DB_DATA"
VOLUME ["/var/lib/db/data"]
COPY docker-entrypoint.sh ensure-initdb.sh /usr/local/bin/
RUN ln -sT ensure-initdb.sh /usr/local/bin/enforce-initdb.sh
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["db"]
