FROM busybox
MAINTAINER Someone <someone@example.org>
ADD https://example.org/tool-1.2.tar.gz /tmp/
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d --unpack=true https://example.org/src.tar.xz /src
ADD --keep-git-dir=true https://example.org/project.git?branch=main#:x /lib
ADD --exclude=*.md --exclude=docs/** . /all/
VOLUME /data /cache
ENV A=1 B="two words" C=three\ words D='$A' E="$A-${B:-none}-${Z:+set}"
RUN ["/bin/sh", "-c", "echo $A"]
