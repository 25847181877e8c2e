FROM busybox
ENV PHPIZE_DEPS \
		autoconf \
		dpkg-dev \
		make
ENV PHP_INI_DIR /usr/local/etc/php
RUN set -eux; mkdir -p "$PHP_INI_DIR/conf.d"; [ ! -d /var/www/html ]; mkdir -p /var/www/html; chmod 1777 /var/www/html
ENV PHP_CFLAGS="-fstack-protector-strong -fpic -D_FILE_OFFSET_BITS=64"
ENV PHP_CPPFLAGS="$PHP_CFLAGS"
ENV PHP_URL="https://example.org/php.tar.xz/from/this/mirror" PHP_ASC_URL=""
COPY docker-php-ext-* docker-php-entrypoint /usr/local/bin/
ENTRYPOINT ["docker-php-entrypoint"]
CMD ["php", "-a"]
