# escape=`
FROM busybox
SHELL ["/bin/sh", "-o", "pipefail", "-c"]
ENV HOME_DIR=C:\Users\app NAME="a`"b"
RUN echo `
    one `
    # between
    two
WORKDIR C:/app
LABEL where="C:\dir\" next=`$HOME_DIR
