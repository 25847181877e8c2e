# syntax=docker/dockerfile:1.20
FROM scratch AS files
COPY --parents ./services/*/package.json /x/
COPY --parents ./a/./b/**/*.txt /y/
COPY --link --exclude=*.log --exclude=tmp logs/ /logs/
FROM busybox
RUN --mount=type=bind,from=files,source=/x,target=/mnt,rw \
    --mount=type=tmpfs,target=/run,size=64m \
    --mount=type=ssh,id=default,required \
    --mount=type=secret,id=token,env=TOKEN \
    --network=none --security=sandbox true
COPY --from=busybox --chown=app:app /bin/busybox /bin/
