FROM busybox
ARG NAME=world
RUN <<-EOT
	set -e
	mkdir -p /etc/app
	echo "hello $NAME"
EOT
COPY <<CONF <<"RAW" /etc/app/
name = ${NAME}
path = "${PATH##*:}"
CONF
$not expanded\
RAW
COPY --chmod=755 <<'EOT' /usr/local/bin/run
#!/bin/sh
exec "$@"
EOT
RUN <<EOT
#!/usr/bin/env python3
print("hi")
EOT
RUN cat <<ONE - <<TWO > /all
1
ONE
2
TWO
