FROM busybox as base
ARG PKG_CONFIG_PATH=/opt/lib
from base as built
env HOME=/var/lib/queue
run mkdir -p $HOME && chmod 777 $HOME
copy --chown=100:101 conf.d/*.conf /etc/queue/
workdir $HOME
expose 4369 5671-5672 15691/tcp
volume $HOME
cmd ["queue-server"]
